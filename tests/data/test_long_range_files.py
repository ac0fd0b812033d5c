# SPDX-License-Identifier: Apache-2.0
"""A user's own labelled sequences: what is read from them, and what each kind of bad input says."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from seqlib.data.long_range import Columns, load_sequences


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return [str(path)]


def texts(n, start=0):
    return [
        {"text": f"review number {i}é", "label": ("bad", "good")[i % 2]}
        for i in range(start, start + n)
    ]


def test_texts_become_bytes(tmp_path):
    data = load_sequences(
        train_files=lines(tmp_path / "a.jsonl", texts(6)),
        validation_files=lines(tmp_path / "b.jsonl", texts(2, 6)),
        test_files=lines(tmp_path / "c.jsonl", texts(3, 8)),
    )
    assert {split: len(part) for split, part in data.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 3,
    }
    item = data["train"][1]
    assert bytes((item["input_ids"] - 1).tolist()).decode() == "review number 1é"
    assert item["labels"] == 1
    assert data.manifest["classes"] == ["bad", "good"]
    assert (data.form.vocab_size, data.form.num_classes) == (257, 2)


def test_a_tenth_is_held_out_where_no_file_is(tmp_path):
    data = load_sequences(train_files=lines(tmp_path / "a.jsonl", [*texts(300), *texts(300)]))
    assert len(data["train"]) + len(data["validation"]) == 600
    assert 30 <= len(data["validation"]) <= 90

    def contents(split):
        return {
            bytes(row["input_ids"].tolist())
            for row in map(data[split].__getitem__, range(len(data[split])))
        }

    assert not contents("train") & contents("validation")  # copies stay together


def test_pairs_of_texts_cut_to_a_length(tmp_path):
    records = [{"a": "first", "b": "the second", "same": i % 2} for i in range(4)]
    files = lines(tmp_path / "a.jsonl", records)
    columns = Columns(inputs=("a", "b"), label="same", max_length=7)
    data = load_sequences(train_files=files, validation_files=files, columns=columns)
    item = data["train"][1]
    assert bytes((item["input_ids"] - 1).tolist()) == b"first"
    assert bytes((item["pair_input_ids"] - 1).tolist()) == b"the sec"
    assert data.form.pairs
    assert data.form.length == 7


@pytest.mark.parametrize(("mode", "features"), [("L", 1), ("RGB", 3)])
def test_folders_of_images_by_class(tmp_path, mode, features):
    values = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(values[i]).save(tmp_path / "train" / name / "1.png")
    folder = [str(tmp_path / "train")]
    data = load_sequences(
        train_files=folder, validation_files=folder, columns=Columns(image_mode=mode)
    )
    rows, labels = data["train"].stacked()
    assert rows.shape == (2, 12, features)
    assert labels.tolist() == [0, 1]
    assert data.manifest["classes"] == ["cat", "dog"]
    if mode == "RGB":
        want = torch.from_numpy(values).reshape(2, 12, 3) * (2 / 255) - 1
        torch.testing.assert_close(rows, want.float())


def test_arrays_of_tokens_and_of_numbers(tmp_path):
    tokens = np.array([[3, 4, 0, 0], [5, 0, 6, 7]])
    np.savez(tmp_path / "a.npz", ids=tokens, y=np.array([1, 0]))
    np.savez(tmp_path / "b.npz", x=np.ones((2, 5, 3)) / 2, label=np.array([0, 1]))
    first, second = (str(tmp_path / f"{n}.npz") for n in "ab")
    data = load_sequences(
        train_files=[first], validation_files=[first], columns=Columns(inputs=("ids",), label="y")
    )
    assert data["train"][0]["input_ids"].tolist() == [3, 4]  # zeros at the end are padding
    assert data["train"][1]["input_ids"].tolist() == [5, 0, 6, 7]
    assert data.form.vocab_size == 8
    data = load_sequences(
        train_files=[second], validation_files=[second], columns=Columns(inputs=("x",))
    )
    assert torch.equal(data["train"][0]["input_values"], torch.full((5, 3), 0.5))


def test_a_data_set_for_datasets(tmp_path):
    pytest.importorskip("datasets")
    for split in ("train", "test"):
        lines(tmp_path / f"{split}.jsonl", texts(40))
    data = load_sequences(dataset_name=str(tmp_path))
    assert set(data.splits) == {"train", "validation", "test"}
    assert len(data["train"]) + len(data["validation"]) == 40
    with pytest.raises(ValueError, match=r"row 0 has no 'sentence', it has text, label"):
        load_sequences(dataset_name=str(tmp_path), columns=Columns(inputs=("sentence",)))


def test_a_digest_tells_data_apart(tmp_path):
    def sha256(records):
        files = lines(tmp_path / "a.jsonl", records)
        return load_sequences(train_files=files, validation_files=files).sha256

    assert sha256(texts(4)) == sha256(texts(4))
    assert sha256(texts(4)) != sha256(texts(4, 1))


GOOD = {"text": "a text", "label": 1}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"txt": "a"}], r"a.jsonl line 1 has no 'text', it has txt"),
        ([GOOD, {"text": "b"}], r"a.jsonl line 2 has no 'label', it has text"),
        ([["a"]], r"a.jsonl line 1 is no JSON object: \['a'\]"),
        ([{"text": "", "label": 1}], r"line 1 holds an empty sequence"),
        ([{"text": 3, "label": 1}], r"line 1 must hold a text, an image or an array, got int"),
        ([{"text": "b", "label": [1]}], r"must have a number or a name as label, got \[1\]"),
        ([GOOD], r"1 training rows are too few to hold a tenth of them out"),
    ],
)
def test_lines_that_are_refused(tmp_path, records, message):
    with pytest.raises(ValueError, match=message):
        load_sequences(train_files=lines(tmp_path / "a.jsonl", records))


def test_splits_that_do_not_belong_together(tmp_path):
    train = lines(tmp_path / "a.jsonl", [GOOD, {"text": "b", "label": 0}])
    other = lines(tmp_path / "b.jsonl", [{"text": "c", "label": 2}])
    with pytest.raises(ValueError, match=r"b.jsonl line 1 has the label 2, which no training row"):
        load_sequences(train_files=train, validation_files=other)
    np.savez(tmp_path / "c.npz", text=np.ones((1, 4, 2)), label=np.array([1]))
    with pytest.raises(ValueError, match=r"row 0 has steps of \[2\] numbers, where .* \[\] tokens"):
        load_sequences(train_files=train, validation_files=[str(tmp_path / "c.npz")])


def test_files_that_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match=r"a.csv is none of .jsonl, .npz and .png"):
        load_sequences(train_files=[str(tmp_path / "a.csv")])
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a.png can't be read as an image"):
        load_sequences(train_files=[str(tmp_path / "a.png")])
    np.savez(tmp_path / "a.npz", text=np.ones((2, 4)), label=np.array([1]))
    with pytest.raises(ValueError, match=r"a.npz has 1 labels for \[2\] rows"):
        load_sequences(train_files=[str(tmp_path / "a.npz")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"exactly one of name, train_files and dataset_name must be given, got none"),
        ({"name": "listops", "dataset_name": "x"}, r"got name='listops', dataset_name='x'"),
        ({"name": "listops", "test_files": ["x"]}, r"test_files goes with train_files"),
        ({"train_files": ["nowhere"]}, r"train_files 'nowhere' matches no file"),
    ],
)
def test_sources_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_sequences(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ()}, r"input_columns must be one or two names, got \[\]"),
        ({"max_length": 0}, r"max_length must be at least 1, got 0"),
        ({"image_mode": "HSV"}, r"image_mode must be 'L' or 'RGB', got 'HSV'"),
    ],
)
def test_columns_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Columns(**options)
