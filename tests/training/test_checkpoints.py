# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints are named as such; a disk that is full costs nothing that was saved."""

import json
import resource
import shutil

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, TrainerCallback

from seqlib.training import checkpoints
from seqlib.training.checkpoints import CheckpointError


def tokenizer(*words):
    vocab = {word: i for i, word in enumerate(("<unk>", *words))}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="<unk>")), unk_token="<unk>"
    )


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def checkpoint(uninterrupted, tmp_path):
    return shutil.copytree(uninterrupted[1] / "checkpoint-12", tmp_path / "checkpoint-12")


def test_another_architecture_is_refused(tiny, checkpoint):
    edit_config(checkpoint, model_type="gpt2")
    with pytest.raises(CheckpointError, match="holds a 'gpt2' model, not the 'llama'"):
        checkpoints.check_belongs(checkpoint, tiny.model(), None)


def test_another_size_is_refused_by_name(tiny, checkpoint):
    with pytest.raises(CheckpointError, match="hidden_size is 16 there and 24 here"):
        checkpoints.check_belongs(checkpoint, tiny.model(hidden_size=24), None)


def test_another_tokenizer_is_refused(tiny, checkpoint):
    tokenizer("a", "b").save_pretrained(checkpoint)
    checkpoints.check_belongs(checkpoint, tiny.model(), tokenizer("a", "b"))
    with pytest.raises(CheckpointError, match="3 tokens there and 4 here, 2 with the same"):
        checkpoints.check_belongs(checkpoint, tiny.model(), tokenizer("a", "c", "b"))


def test_a_checkpoint_without_a_tokenizer_is_refused_for_one(tiny, checkpoint):
    with pytest.raises(CheckpointError, match="no tokenizer to compare with"):
        checkpoints.check_belongs(checkpoint, tiny.model(), tokenizer("a"))


def test_a_folder_that_is_no_checkpoint_is_refused(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        checkpoints.check_belongs(tmp_path, tiny.model(), None)


def test_a_foreign_checkpoint_is_refused_before_training(tiny, uninterrupted, tmp_path):
    _, folder = uninterrupted
    foreign = shutil.copytree(folder / "checkpoint-9", tmp_path / "foreign")
    edit_config(foreign, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="num_hidden_layers is 3 there and 2 here"):
        tiny.train(tmp_path / "run", f"--resume_from_checkpoint={foreign}")


class FullDiskAt(TrainerCallback):
    """From one step on no file may grow past `room` bytes: writes fail in every library."""

    def __init__(self, step, room):
        self.step, self.room = step, room

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, hard))


@pytest.fixture
def file_size_limit():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield limits
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# The tiny model's weights take 20 kB, its optimizer state 45 kB: one limit stops each.
@pytest.mark.parametrize("room", [2_000, 30_000])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(
    tiny, uninterrupted, tmp_path, file_size_limit, room
):
    wanted, _ = uninterrupted
    with pytest.raises(CheckpointError) as caught:
        tiny.train(tmp_path, callbacks=[FullDiskAt(6, room)])
    resource.setrlimit(resource.RLIMIT_FSIZE, file_size_limit)
    message = str(caught.value)
    assert "no checkpoint was saved" in message
    assert "disk space left" in message
    assert "last good checkpoint: " in message
    assert "checkpoint-3" in message
    assert not checkpoints.staging(tmp_path).exists()
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert tiny.losses(tiny.train(tmp_path)) == wanted


def test_the_best_checkpoint_keeps_its_final_path(tiny, tmp_path):
    trainer = tiny.train(
        tmp_path,
        "--eval_strategy=steps",
        "--eval_steps=3",
        "--load_best_model_at_end=true",
        "--save_total_limit=1",
        eval_dataset=tiny.Tokens(8),
    )
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / "checkpoint-12")
    saved = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert saved["best_model_checkpoint"] == best
