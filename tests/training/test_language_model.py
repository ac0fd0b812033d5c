# SPDX-License-Identifier: Apache-2.0
"""What a language-model run may know of held-out text: nothing."""

import pytest

from seqlib.training import language_model
from seqlib.training.language_model import DataSettings, prepare_text


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path / "cache"))
    lines = "".join(f"word{i} and others\n" for i in range(500))
    for name, text in (("train", lines), ("held_out", "quux " * 500)):
        (tmp_path / f"{name}.txt").write_text(text)
    return DataSettings(
        train_files=[str(tmp_path / "train.txt")],
        validation_files=[str(tmp_path / "held_out.txt")],
        vocab_size=300,
        sequence_length=16,
    )


def test_the_tokenizer_is_trained_on_the_training_split_alone(settings, monkeypatch):
    seen = []
    train = language_model.train_tokenizer

    def watched(documents, *arguments):
        seen.extend(documents)
        return train(documents, *arguments)

    monkeypatch.setattr(language_model, "train_tokenizer", watched)
    text = prepare_text(settings)
    assert sorted(seen) == sorted(text.corpus["train"])
    assert not set(seen) & set(text.corpus["validation"])
    assert len(text.tokenizer("quux")["input_ids"]) == 4, "no piece was learned from it"


def test_windows_hold_training_text_alone(settings):
    text = prepare_text(settings)
    packed = text.train.tokens
    assert packed.num_bytes == text.corpus["train"].num_bytes
    ids = [int(i) for item in text.train for i in item["input_ids"]]
    spelled = text.tokenizer.decode([i for i in ids if i != text.tokenizer.eos_token_id])
    assert spelled in "".join(text.corpus["train"])
