# SPDX-License-Identifier: Apache-2.0
"""A run folder that something damaged is named as such; nothing goes on from a part of it."""

import shutil

import pytest

from seqlib.training.checkpoints import CheckpointError
from seqlib.training.record import RECORD_FILE

FILES = (
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
)


@pytest.fixture
def run(uninterrupted, tmp_path):
    """The folder of a run that stopped after nine steps of twelve."""
    folder = shutil.copytree(uninterrupted[1], tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-12")
    return folder


@pytest.mark.parametrize("part", [0, 0.5])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_of_a_checkpoint(tiny, run, name, part):
    path = run / "checkpoint-9" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match=r"checkpoint-9 can't be loaded \(.*: delete it"):
        tiny.train(run)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_of_a_checkpoint(tiny, run, name):
    (run / "checkpoint-9" / name).unlink()
    with pytest.raises(CheckpointError, match="checkpoint-9"):
        tiny.train(run)


@pytest.mark.parametrize("name", ["config.json", "trainer_state.json"])
@pytest.mark.parametrize("content", ["[]", "3", '{"a": 1}', "\x00"])
def test_a_file_of_a_checkpoint_that_says_something_else(tiny, run, name, content):
    (run / "checkpoint-9" / name).write_text(content)
    with pytest.raises(CheckpointError, match="checkpoint-9"):
        tiny.train(run)


def test_checkpoints_of_models_alone_end_a_run_but_do_not_resume_one(tiny, tmp_path):
    words = ("--save_only_model=true",)
    tiny.train(tmp_path, *words)
    assert tiny.train(tmp_path, *words).state.global_step == 12
    shutil.rmtree(tmp_path / "checkpoint-12")
    with pytest.raises(CheckpointError, match=r"has no scheduler.pt, rng_state.pth, optimizer.pt"):
        tiny.train(tmp_path, *words)


def test_deleting_a_damaged_checkpoint_goes_on_from_the_one_before(tiny, run, uninterrupted):
    shutil.rmtree(run / "checkpoint-9")
    assert tiny.losses(tiny.train(run)) == uninterrupted[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no record of a run"),
        (b"- 1", "is no record of a run"),
        (b"settings: 3", "is no record of a run"),
        (b"a: [", "can't be read: while parsing"),
        (b"\xff\xfe\x00", "can't be read: 'utf-8' codec"),
    ],
)
def test_a_record_that_is_none(tiny, run, content, message):
    (run / RECORD_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"run\.yaml.*{message}"):
        tiny.train(run)
