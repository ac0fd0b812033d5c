# SPDX-License-Identifier: Apache-2.0
"""A user's own files: what is accepted, how it is split, and what each kind of bad input says."""

import gzip
import json
import logging

import numpy as np
import pytest

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


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
def test_json_lines_are_one_document_each(tmp_path, name):
    lines = "\n".join(json.dumps({"body": f"text {i}\u2028é", "n": i}) for i in range(60)) + "\n\n"
    data = gzip.compress(lines.encode()) if name.endswith("gz") else lines
    corpus = load(tmp_path, write(tmp_path / name, data), text_column="body")
    assert sorted(texts(corpus)) == sorted(f"text {i}\u2028é" for i in range(60))


def test_zst_is_read_where_a_library_is_present(tmp_path, monkeypatch):
    file = write(tmp_path / "a.txt.zst", b"(\xb5/\xfd")

    class Module:
        @staticmethod
        def open(path, mode):
            return gzip.GzipFile(fileobj=__import__("io").BytesIO(gzip.compress(TEXT.encode())))

    def find(name):
        if name == "zstandard":
            return Module
        raise ImportError(name)

    monkeypatch.setattr("seqlib.data.text_files.importlib.import_module", find)
    assert sorted("".join(texts(load(tmp_path, file)))) == sorted(TEXT)


def test_zst_without_a_library_names_it(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("seqlib.data.text_files.importlib.import_module", missing)
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
        ("t.txt.gz", gzip.compress(b"text" * 999)[:30], "cannot be read"),
        ("t.txt.gz", b"not packed", "cannot be read"),
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
