# SPDX-License-Identifier: Apache-2.0
"""A user's own files: what is accepted, how it is split, and what each kind of bad input says."""

import gzip
import json
import logging
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from seqlib.data import load_corpus

TEXT = "".join(f"line {i} of a small but honest text\n" for i in range(400))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def load(tmp_path, *train, **options):
    return load_corpus(train_files=list(train), cache_dir=tmp_path / "cache", **options)


def texts(corpus):
    return [t for split in corpus.splits.values() for t in split]


def test_validation_files_are_the_validation_split(tmp_path):
    train, held_out = (
        write(tmp_path / "a.txt", "alpha\r\n\tbeta"),
        write(tmp_path / "b.md", "gamma"),
    )
    corpus = load(tmp_path, train, validation_files=[held_out])
    assert list(corpus["train"]) == ["alpha\r\n\tbeta"]
    assert list(corpus["validation"]) == ["gamma"]
    assert bytes(corpus["train"].stream) == b"alpha\r\n\tbeta\0"
    assert corpus["train"].num_bytes == 13
    assert corpus.manifest["splits"]["validation"]["documents"] == 1


def test_validation_files_are_not_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "held_out.txt"):
        write(tmp_path / "docs" / name, name)
    everything = str(tmp_path / "docs")
    corpus = load(tmp_path, everything, validation_files=["docs/held_out.txt"])
    assert list(corpus["train"]) == ["a.txt", "b.txt"]
    assert list(corpus["validation"]) == ["held_out.txt"]
    with pytest.raises(ValueError, match="train_files: all 3 files are validation_files as well"):
        load(tmp_path, everything, validation_files=["docs/*.txt"])


def test_a_single_file_is_cut_into_pieces_that_join_to_it(tmp_path):
    corpus = load(tmp_path, write(tmp_path / "a.txt", TEXT))
    pieces = texts(corpus)
    assert len(corpus["validation"]) >= 1
    assert len(corpus["train"]) > 10
    assert sorted("".join(pieces)) == sorted(TEXT)
    assert all(piece in TEXT and piece.endswith("\n") for piece in pieces)


def test_many_files_split_by_path_whatever_their_order(tmp_path):
    files = [write(tmp_path / "many" / f"{i}.txt", f"document {i}") for i in range(200)]
    corpus = load(tmp_path, *reversed(files))
    assert sorted(texts(corpus)) == sorted(f"document {i}" for i in range(200))
    assert 2 <= len(corpus["validation"]) <= 25
    again = load_corpus(train_files=[str(tmp_path / "many")], cache_dir=tmp_path / "other")
    assert again.sha256 == corpus.sha256


def test_files_split_by_path_wherever_they_are_and_however_they_are_named(tmp_path, monkeypatch):
    for i in range(120):
        write(tmp_path / "here" / "sub" / f"{i}.txt", f"document {i}")
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "deeper")
    monkeypatch.chdir(tmp_path)
    patterns = [str(tmp_path / "here"), "here", "here/**/*.txt", "there/deeper", "./here/../here"]
    digests = {
        load_corpus(train_files=[pattern], cache_dir=tmp_path / f"cache-{i}").sha256
        for i, pattern in enumerate(patterns)
    }
    assert len(digests) == 1


def test_a_file_found_twice_is_one_document(tmp_path):
    for i in range(60):
        write(tmp_path / "docs" / f"{i}.txt", f"document {i}")
    docs = str(tmp_path / "docs")
    corpus = load(tmp_path, docs, f"{docs}/*.txt", f"{docs}/7.txt")
    assert sorted(texts(corpus)) == sorted(f"document {i}" for i in range(60))


def test_copies_of_a_text_never_straddle_the_splits(tmp_path):
    for folder in ("a", "b", "c"):
        for i in range(150):
            write(tmp_path / "docs" / folder / f"{folder}{i}.txt", f"document {i}")
    corpus = load(tmp_path, str(tmp_path / "docs"))
    assert len(texts(corpus)) == 450
    assert not set(corpus["train"]) & set(corpus["validation"])


def test_lines_split_by_their_text_whatever_their_order(tmp_path):
    lines = [json.dumps({"text": f"row {i % 300}"}) for i in range(600)]
    splits = []
    for name in ("a", "b"):
        corpus = load(tmp_path, write(tmp_path / f"{name}.jsonl", "\n".join(lines)))
        splits.append({split: sorted(set(corpus[split])) for split in corpus.splits})
        assert not set(corpus["train"]) & set(corpus["validation"])
        random.Random(0).shuffle(lines)
    assert splits[0] == splits[1]
    assert 3 <= len(splits[0]["validation"]) <= 30


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
def test_json_lines_are_one_document_each(tmp_path, name):
    lines = "\n".join(json.dumps({"body": f"text {i}\u2028é", "n": i}) for i in range(60)) + "\n\n"
    data = gzip.compress(lines.encode()) if name.endswith("gz") else lines
    corpus = load(tmp_path, write(tmp_path / name, data), text_column="body")
    assert sorted(texts(corpus)) == sorted(f"text {i}\u2028é" for i in range(60))


def zst(text):
    return zstandard.ZstdCompressor().compress(text.encode())


def test_zst_is_read_to_the_end_of_its_last_frame(tmp_path):
    file = write(tmp_path / "a.txt.zst", zst(TEXT) + zst("the end\n"))
    assert sorted("".join(texts(load(tmp_path, file)))) == sorted(TEXT + "the end\n")


def test_zst_without_a_library_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match=r"a\.txt\.zst needs the package zstandard"):
        load(tmp_path, write(tmp_path / "a.txt.zst", b"x"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.txt", "", "is empty"),
        ("e.txt", " \n\t\n", "is empty"),
        ("b.txt", b"PNG\0\1\2", "is binary"),
        ("u.txt", "text".encode("utf-16"), "is binary"),
        ("l.txt", "déjà vu à côté ".encode("latin-1"), "is not UTF-8 text: 33.3 % of it"),
        ("t.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:30], "cannot be read"),
        ("t.txt.gz", b"not packed", "cannot be read"),
        ("t.txt.zst", zst(TEXT) + zst(TEXT)[:-30], "cannot be read: it ends within a compressed"),
        ("t.txt.zst", b"not packed", "cannot be read: zstd decompressor error"),
        ("j.jsonl", '{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        ("j.jsonl", '{"body": "a"}\n', r"line 1 has no text in 'text', it has \['body'\]"),
        ("j.jsonl", '["a"]\n', "line 1 has no text in 'text', it has list"),
    ],
)
def test_a_named_file_that_cannot_be_used_is_an_error(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"{name} {message}"):
        load(tmp_path, path)
    assert not list((tmp_path / "cache").iterdir()), "a failed preparation leaves nothing behind"


def test_an_unreadable_file_is_an_error(tmp_path):
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"none of the 1 files.*gone\.txt cannot be read"):
        load(tmp_path, str(tmp_path / "*.txt"))


def test_a_file_without_permission_is_an_error(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    file = write(tmp_path / "secret.txt", TEXT)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"secret\.txt cannot be read: .*Permission denied"):
        load(tmp_path, file)


def test_a_pattern_without_a_match_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"train_files '.*nothing-\*\.txt' matches no file"):
        load(tmp_path, str(tmp_path / "nothing-*.txt"))
    file = write(tmp_path / "a.txt", TEXT)
    with pytest.raises(ValueError, match=r"validation_files '.*' matches no file"):
        load(tmp_path, file, validation_files=[str(tmp_path / "none")])


def test_one_string_instead_of_a_list_is_an_error(tmp_path):
    with pytest.raises(TypeError, match=r"train_files must be a list.*got the str"):
        load_corpus(train_files="a.txt", cache_dir=tmp_path)


def test_too_little_text_for_two_splits_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="text files has no documents in its train split"):
        load(tmp_path, write(tmp_path / "a.txt", "one line only"))


def test_bad_files_in_a_scan_are_skipped_with_one_warning(tmp_path, caplog):
    folder = tmp_path / "docs"
    write(folder / "good.txt", TEXT)
    write(folder / "sub" / "bad.bin", b"\0\1")
    write(folder / "sub" / "empty.txt", "")
    write(folder / ".hidden" / "x.txt", "hidden")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING, "seqlib.data"):
            corpus = load(tmp_path, str(folder))
        (record,) = caplog.records
        assert "2 files skipped" in record.getMessage()
    assert {k.rpartition("/")[2]: v for k, v in corpus.manifest["skipped"].items()} == {
        "bad.bin": "is binary (or UTF-16): it contains NUL bytes",
        "empty.txt": "is empty",
    }
    assert "hidden" not in "".join(texts(corpus))


def test_file_names_need_not_be_utf8(tmp_path):
    folder = tmp_path / "docs"
    write(folder / "good.txt", TEXT)
    write(folder / os.fsdecode(b"caf\xe9.txt"), TEXT.upper())
    write(folder / os.fsdecode(b"\xe9mpty.txt"), "")
    corpus = load(tmp_path, str(folder))
    assert sorted("".join(texts(corpus))) == sorted(TEXT + TEXT.upper())
    assert [Path(path).name for path in corpus.manifest["skipped"]] == ["?mpty.txt"]


def test_a_scan_in_which_nothing_is_usable_is_an_error(tmp_path):
    write(tmp_path / "docs" / "a", b"\0")
    write(tmp_path / "docs" / "b", b"\0")
    with pytest.raises(ValueError, match=r"none of the 2 files found is usable; .*a is binary"):
        load(tmp_path, str(tmp_path / "docs"))


def test_rare_bad_bytes_are_replaced_and_lone_surrogates_survive_as_marks(tmp_path):
    file = write(tmp_path / "a.txt", b"x" * 500 + b"\xff" + b"y" * 500)
    lone = write(tmp_path / "b.jsonl", '{"text": "a\\ud800b"}')
    corpus = load(tmp_path, file, validation_files=[lone])
    assert corpus["train"][0] == "x" * 500 + "\ufffd" + "y" * 500
    assert corpus["validation"][0] == "a?b"


def test_a_changed_file_is_prepared_again(tmp_path):
    file = tmp_path / "a.txt"
    first = load(tmp_path, write(file, TEXT))
    write(file, TEXT.replace("honest", "changed"))
    second = load(tmp_path, str(file))
    assert first.sha256 != second.sha256
    assert "changed" in second["train"][0]


def test_documents_are_a_sequence(tmp_path):
    files = [write(tmp_path / f"{c}.txt", c * 5) for c in "abc"]
    held_out = write(tmp_path / "v" / "v.txt", "é中")
    corpus = load(tmp_path, *files, validation_files=[held_out])
    train = corpus["train"]
    assert len(train) == 3
    assert train[-1] == "ccccc"
    assert train[1:] == ["bbbbb", "ccccc"]
    assert "aaaaa" in train
    np.testing.assert_array_equal(train.offsets, [0, 6, 12, 18])
    with pytest.raises(IndexError):
        train[3]
    with pytest.raises(ValueError, match="split must be one of train, validation, got 'test'"):
        corpus["test"]
