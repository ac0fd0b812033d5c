# SPDX-License-Identifier: Apache-2.0
"""Training by the clock: the schedule follows the time spent, also over a resume."""

import pytest
from transformers import TrainerCallback

from seqlib.layers.optim import set_optim
from seqlib.training import clock as clock_module
from seqlib.training.checkpoints import last_checkpoint


class FakeTime:
    """Every step takes `step` seconds, whatever the machine does."""

    def __init__(self, step):
        self.step, self.now = step, 1000.0

    def monotonic(self):
        self.now += self.step
        return self.now


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = control.should_save = True


@pytest.fixture
def fake_time(monkeypatch):
    def install(step):
        monkeypatch.setattr(clock_module, "time", FakeTime(step))

    return install


def rates(trainer):
    return {r["step"]: r["learning_rate"] for r in trainer.state.log_history if "loss" in r}


WORDS = ("--max_steps=-1", "--train_minutes=1", "--warmup_steps=0.1", "--save_steps=1000")


def test_the_schedule_and_the_end_follow_the_time(tiny, tmp_path, fake_time):
    fake_time(3.0)
    trainer = tiny.train(tmp_path, *WORDS, "--lr_scheduler_type=linear")
    # the clock starts at the end of step 1 and stands at 60 s after 20 steps of 3 s
    assert trainer.state.global_step == 21
    assert last_checkpoint(tmp_path).name == "checkpoint-21"
    got = rates(trainer)
    # the rate of step n was set when n - 2 steps were on the clock; warm-up ends at 6 s
    assert got[2] == 0
    assert got[3] == pytest.approx(3e-2 * 3 / 6)
    assert got[4] == pytest.approx(3e-2)
    assert got[12] == pytest.approx(3e-2 * (60 - 30) / 54)
    assert got[21] == pytest.approx(3e-2 * 3 / 54)


def test_a_slower_machine_takes_fewer_steps_of_the_same_schedule(tiny, tmp_path, fake_time):
    fake_time(12.0)
    assert tiny.train(tmp_path, *WORDS).state.global_step == 6


def test_a_resume_goes_on_with_the_time_left(tiny, tmp_path, fake_time):
    fake_time(3.0)
    wanted = tiny.train(tmp_path / "whole", *WORDS)
    cut = tiny.train(tmp_path / "cut", *WORDS, callbacks=[StopAfter(8)])
    assert cut.state.global_step == 8
    rest = tiny.train(tmp_path / "cut", *WORDS)
    assert rest.clock.elapsed == pytest.approx(60)
    # the first step after the resume is not charged, as no process's first step is
    assert rest.state.global_step == wanted.state.global_step + 1
    assert rates(rest)[10] == pytest.approx(rates(wanted)[9])
    assert tiny.train(tmp_path / "cut", *WORDS).state.global_step == rest.state.global_step


def test_a_schedule_that_follows_a_metric_is_refused(tiny, tmp_path):
    words = ("--lr_scheduler_type=reduce_lr_on_plateau", "--eval_strategy=steps", "--eval_steps=3")
    with pytest.raises(ValueError, match="lr_scheduler_type must be a function of progress"):
        tiny.train(tmp_path, *WORDS, *words, eval_dataset=tiny.Tokens(8))


def test_weight_decay_leaves_tagged_parameters_biases_and_norms(tiny, tmp_path):
    trainer = tiny.train(tmp_path, "--max_steps=1")
    names = set(trainer.get_decay_parameter_names(trainer.model))
    assert "model.layers.0.mlp.up_proj.weight" in names
    assert not any("norm" in name for name in names)
    tagged = trainer.model.model.layers[0].mlp.up_proj.weight
    set_optim(tagged, weight_decay=0.0)
    left = set(trainer.get_decay_parameter_names(trainer.model))
    assert names - left == {"model.layers.0.mlp.up_proj.weight"}
    groups = trainer.optimizer.param_groups
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decays[id(trainer.model.model.norm.weight)] == 0.0
    assert decays[id(tagged)] == 0.1  # this optimizer was made before the tag
