# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, at any moment, goes on to the numbers of the run that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqlib.training import checkpoints
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError

# Saves of the tiny run touch 24 files (transformers 5.23); `file:24` is after the rename.
KILLS = ["step:7", *(f"file:{k}" for k in (2, 8, 14, 20, 22, 23, 24)), "half:optimizer.pt"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with one killed run for each of KILLS."""
    folder = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *KILLS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for kill in KILLS for word in (kill, "9")]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_goes_on_bit_for_bit(tiny, uninterrupted, killed, kill):
    wanted, _ = uninterrupted
    folder = killed / kill
    last = checkpoints.last_checkpoint(folder)
    assert last.name in ("checkpoint-3", "checkpoint-6")
    for checkpoint in folder.glob("checkpoint-*"):
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(checkpoint / name, weights_only=True)
    trainer = tiny.train(folder)
    assert tiny.losses(trainer) == wanted
    assert trainer.state.global_step == 12
    assert not checkpoints.staging(folder).exists()


def test_what_is_resumed_draws_at_random_and_is_past_its_first_epoch(tiny, uninterrupted):
    """Else nothing here would notice draws or places in an epoch that are not restored."""
    model, (row, *_) = tiny.model().train(), tiny.Tokens()
    ids = row["input_ids"][None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    state = json.loads((uninterrupted[1] / "checkpoint-6" / checkpoints.STATE_FILE).read_text())
    assert 1 < state["epoch"] < 2


def test_accumulated_steps_equal_one_of_all_their_rows(tiny, tmp_path, monkeypatch):
    class Uneven(tiny.Tokens):
        """Rows with labels left out, so that the parts of a step weigh differently."""

        def __getitem__(self, index):
            row = super().__getitem__(index)
            left_out = torch.arange(tiny.LENGTH) < index % 12
            return {**row, "labels": row["labels"].masked_fill(left_out, -100)}

    def losses(folder, *words):
        trainer = tiny.train(tmp_path / folder, *words, network=tiny.recurrent_model())
        return list(tiny.losses(trainer).values())

    monkeypatch.setattr(tiny, "Tokens", Uneven)
    whole = losses("whole")
    parts = ("--per_device_train_batch_size=1", "--gradient_accumulation_steps=4")
    # the same sums in another order; measured 4.8e-7
    assert losses("parts", *parts) == pytest.approx(whole, abs=2e-6)


def test_recomputed_activations_change_nothing(tiny, tmp_path):
    names = ("activation_checkpointing", "gradient_checkpointing")  # transformers 5.23 and 5.17
    name = next(name for name in names if name in TrainSettings.__dataclass_fields__)
    plain = tiny.train(tmp_path / "plain", network=tiny.recurrent_model())
    again = tiny.train(tmp_path / "again", f"--{name}=true", network=tiny.recurrent_model())
    assert getattr(again.model, f"is_{name}")
    assert not getattr(plain.model, f"is_{name}")
    assert tiny.losses(again) == tiny.losses(plain)


def test_saving_more_often_changes_nothing(tiny, uninterrupted, tmp_path):
    wanted, _ = uninterrupted
    assert tiny.losses(tiny.train(tmp_path, "--save_steps=100")) == wanted


def test_losses_logged_less_often_than_saved_agree_after_a_resume(tiny, tmp_path):
    words = ("--logging_steps=5", "--save_steps=4")
    wanted = tiny.losses(tiny.train(tmp_path / "whole", *words))
    first = tiny.train(tmp_path / "cut", *words)
    for step in (8, 12):
        path = Path(first.args.output_dir) / f"checkpoint-{step}"
        path.rename(tmp_path / path.name)
    assert tiny.losses(tiny.train(tmp_path / "cut", *words)) == wanted


def test_a_finished_run_is_not_trained_again(tiny, uninterrupted, tmp_path):
    wanted, folder = uninterrupted
    before = sorted(p.stat().st_mtime_ns for p in folder.rglob("checkpoint-*/*"))
    trainer = tiny.train(folder)
    assert tiny.losses(trainer) == wanted
    assert sorted(p.stat().st_mtime_ns for p in folder.rglob("checkpoint-*/*")) == before
    best = torch.load(folder / "checkpoint-12" / "optimizer.pt", weights_only=True)
    assert best["state"]  # what is resumed from holds the optimizer's moments
    other = tiny.model()
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trainer.model.parameters(), other.parameters(), strict=True)
    )


def test_other_settings_in_the_same_folder_are_refused_and_named(tiny, uninterrupted):
    _, folder = uninterrupted
    with pytest.raises(CheckpointError, match=r"learning_rate was 0.03, now 0.01.*--output_dir"):
        tiny.train(folder, "--learning_rate=1e-2")


def test_a_named_checkpoint_goes_on_with_other_settings(tiny, uninterrupted, tmp_path):
    wanted, folder = uninterrupted
    trainer = tiny.train(
        tmp_path, "--learning_rate=1e-2", f"--resume_from_checkpoint={folder / 'checkpoint-9'}"
    )
    got = tiny.losses(trainer)
    assert {k: got[k] for k in range(1, 10)} == {k: wanted[k] for k in range(1, 10)}
    assert got[12] != wanted[12]


def test_checkpoints_without_a_record_are_not_taken_over(tiny, uninterrupted, tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(CheckpointError, match="left no record"):
        tiny.train(tmp_path)


def test_a_path_that_is_no_folder_is_refused(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"must be 'auto' or a folder, got 'nowhere'"):
        tiny.train(tmp_path, "--resume_from_checkpoint=nowhere")
