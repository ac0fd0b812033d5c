# SPDX-License-Identifier: Apache-2.0
"""Packed token files, windows over them, shuffled prefixes, and preparation that is all or none."""

import pickle

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seqlib.data import (
    PackedDataset,
    byte_tokenizer,
    joined_bytes,
    load_corpus,
    pack_documents,
    packing,
    shuffled_prefix,
    train_tokenizer,
)
from seqlib.data.cache import atomic_directory, cache_root


@pytest.fixture
def corpus(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(f"document {i} é\n" * (i + 1))
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "v.txt").write_text("held out </s>")
    return load_corpus(
        train_files=[str(tmp_path / "*.txt")],
        validation_files=[str(tmp_path / "v")],
        cache_dir=tmp_path / "cache",
    )


def test_packed_ids_spell_the_documents(corpus, tmp_path):
    tokens = pack_documents(corpus["train"], byte_tokenizer(), cache_dir=tmp_path)
    expected = b"".join(d.encode() + b"\xff" for d in corpus["train"])
    ids = np.frombuffer(expected, np.uint8).astype(int) + 4
    ids[np.frombuffer(expected, np.uint8) == 255] = 3
    np.testing.assert_array_equal(tokens.ids, ids)
    assert tokens.ids.dtype == np.uint16
    assert tokens.num_tokens == tokens.num_bytes == len(expected)
    assert tokens.num_documents == 5


def test_special_token_text_is_packed_as_text(corpus, tmp_path):
    tokens = pack_documents(corpus["validation"], byte_tokenizer(), cache_dir=tmp_path)
    assert np.flatnonzero(tokens.ids == 3).tolist() == [tokens.num_tokens - 1]


def test_packing_is_reused_and_keyed_by_text_and_tokenizer(corpus, tmp_path, monkeypatch):
    calls = []
    encode = packing.encode_documents
    monkeypatch.setattr(packing, "encode_documents", lambda *a: calls.append(1) or encode(*a))
    first = pack_documents(corpus["train"], byte_tokenizer(), cache_dir=tmp_path)
    again = pack_documents(corpus["train"], byte_tokenizer(), cache_dir=tmp_path)
    assert first == again
    assert len(calls) == 1
    small = train_tokenizer(corpus["train"], 300)
    paths = {
        first.path,
        pack_documents(corpus["validation"], byte_tokenizer(), cache_dir=tmp_path).path,
        pack_documents(corpus["train"], small, cache_dir=tmp_path).path,
    }
    assert len(paths) == 3


def test_large_vocabularies_take_four_bytes(corpus, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"token{i}" for i in range(2**16)])
    tokens = pack_documents(corpus["validation"], tokenizer, cache_dir=tmp_path)
    assert tokens.ids.dtype == np.uint32
    assert tokens.ids[:4].tolist() == [b + 4 for b in b"held"]


def test_ids_with_gaps_are_kept_whole(corpus, tmp_path):
    vocab = {token: i for i, token in enumerate(("<pad>", "<unk>", "<s>", "</s>"))}
    model = models.WordLevel(vocab | {"held": 70_000, "out": 70_001}, unk_token="<unk>")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokens = pack_documents(corpus["validation"], tokenizer, cache_dir=tmp_path)
    assert tokens.ids[:2].tolist() == [70_000, 70_001]


def test_windows(corpus, tmp_path):
    tokens = pack_documents(corpus["train"], byte_tokenizer(), cache_dir=tmp_path)
    dataset = PackedDataset(tokens, 16)
    assert len(dataset) == tokens.num_tokens // 16
    ids = torch.cat([item["input_ids"] for item in dataset])
    np.testing.assert_array_equal(ids, tokens.ids[: len(ids)])
    item = dataset[-1]
    assert item["input_ids"].dtype == item["labels"].dtype == torch.int64
    assert torch.equal(item["input_ids"], item["labels"])
    item["labels"][0] = -100
    assert item["input_ids"][0] != -100
    assert dataset[-1]["labels"][0] != -100
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_windows_travel_to_workers_without_the_tokens(corpus, tmp_path):
    tokens = pack_documents(corpus["train"], byte_tokenizer(), cache_dir=tmp_path)
    dataset = PackedDataset(tokens, 16)
    packed = pickle.dumps(dataset)
    assert len(packed) < 1000
    assert torch.equal(pickle.loads(packed)[2]["input_ids"], dataset[2]["input_ids"])


@pytest.mark.parametrize("length", [1, 10**6])
def test_a_window_must_fit(corpus, tmp_path, length):
    tokens = pack_documents(corpus["validation"], byte_tokenizer(), cache_dir=tmp_path)
    with pytest.raises(ValueError, match=f"sequence_length must be between 2 and .*got {length}"):
        PackedDataset(tokens, length)


def test_packing_needs_an_end_token(corpus, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="tokenizer must have an eos_token"):
        pack_documents(corpus["train"], tokenizer, cache_dir=tmp_path)


def test_a_damaged_cache_is_an_error(corpus, tmp_path):
    file = corpus["train"].folder / "train.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train\.bin must hold \d+ bytes, found \d+: delete"):
        load_corpus(
            train_files=[str(tmp_path / "*.txt")],
            validation_files=[str(tmp_path / "v")],
            cache_dir=tmp_path / "cache",
        )


@pytest.mark.parametrize("content", ["", '{"name": '])
def test_a_damaged_manifest_is_an_error(corpus, tmp_path, content):
    (corpus["train"].folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged \(.*\): delete .* prepared"):
        load_corpus(
            train_files=[str(tmp_path / "*.txt")],
            validation_files=[str(tmp_path / "v")],
            cache_dir=tmp_path / "cache",
        )


def test_a_damaged_packed_file_is_an_error(corpus, tmp_path):
    tokens = pack_documents(corpus["train"], byte_tokenizer(), cache_dir=tmp_path)
    tokens.path.write_bytes(tokens.path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"ids\.bin must hold \d+ bytes, found \d+: delete"):
        pack_documents(corpus["train"], byte_tokenizer(), cache_dir=tmp_path)


def test_prefixes_are_shuffled_cut_to_size_and_repeatable():
    documents = [f"{i:03}é" * 10 for i in range(100)]
    whole = shuffled_prefix(documents)
    assert sorted(whole) == documents
    assert whole != documents
    for size in (2, 3, 49, 50, 51, 52, 1000):
        prefix = shuffled_prefix(documents, size)
        joined = joined_bytes(prefix)
        assert size - 2 <= len(joined) <= size
        assert joined_bytes(whole).startswith(joined[:-1])
    assert shuffled_prefix(documents, 1000, seed=1) != shuffled_prefix(documents, 1000)
    assert sorted(shuffled_prefix(documents, 10**9)) == documents
    with pytest.raises(ValueError, match="max_bytes must be at least 2, got 1"):
        shuffled_prefix(documents, 1)


def interrupted_write(folder):
    (folder / "half").write_text("x")
    raise KeyboardInterrupt


def test_preparation_is_all_or_nothing(tmp_path):
    target = tmp_path / "deep" / "corpus"
    with pytest.raises(KeyboardInterrupt), atomic_directory(target) as scratch:
        interrupted_write(scratch)
    assert list(target.parent.iterdir()) == []
    with atomic_directory(target) as scratch:
        (scratch / "file").write_text("mine")
    with atomic_directory(target) as scratch:  # another process was faster
        (scratch / "file").write_text("late")
    assert [p.name for p in target.parent.iterdir()] == ["corpus"]
    assert (target / "file").read_text() == "mine"


def test_a_full_disk_names_the_target(tmp_path):
    target = tmp_path / "corpus"
    full = OSError(28, "No space left on device")
    message = r"cannot write .*corpus: No space left"
    with pytest.raises(OSError, match=message) as caught, atomic_directory(target):
        raise full
    assert caught.value.errno == 28
    assert not target.exists()


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path / "env"))
    assert cache_root() == tmp_path / "env"
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("SEQLIB_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "seqlib"
