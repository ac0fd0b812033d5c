# SPDX-License-Identifier: Apache-2.0
"""The seconds in a run's log go on counting where a resumed run left off."""

import pytest
from transformers import TrainerCallback

from seqlib.training import stopwatch as module


class FakeTime:
    now = 0.0

    def monotonic(self):
        return self.now


class StepsTakeTwoSeconds(TrainerCallback):
    def __init__(self, time, last):
        self.time, self.last = time, last

    def on_step_begin(self, args, state, control, **kwargs):
        self.time.now += 2

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.last


def test_seconds_add_up_over_a_resume(tiny, tmp_path, monkeypatch):
    time = FakeTime()
    monkeypatch.setattr(module, "time", time)
    tiny.train(tmp_path, callbacks=[StepsTakeTwoSeconds(time, 7)])
    time.now += 5000  # between two processes
    trainer = tiny.train(tmp_path, callbacks=[StepsTakeTwoSeconds(time, 12)])
    seconds = {row["step"]: row["seconds"] for row in trainer.state.log_history if "loss" in row}
    # the run stopped at step 7 and went on from the checkpoint of step 6
    assert seconds == {step: pytest.approx(2 * step) for step in range(1, 13)}
    assert module.seconds_trained(trainer.state) == 24
