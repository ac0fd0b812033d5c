# SPDX-License-Identifier: Apache-2.0
"""Steps without a finite gradient change nothing but the count; schedules that follow a metric."""

import pytest
import torch
from transformers import TrainerCallback

from seqlib.training.finite import MOST_IN_A_ROW, SkipNonFinite, skipped_steps


def broken_model(tiny, steps, factor=torch.nan):
    """The tiny model with its loss times `factor` in those passes of training (from 1)."""
    model, count = tiny.model(), iter(range(1, 10_000))

    def break_loss(module, inputs, output):
        if module.training and next(count) in steps:
            output["loss"] = output["loss"] * factor

    model.register_forward_hook(break_loss)
    return model


class Weights(TrainerCallback):
    """The weights after every step, and the first moments of their optimizer."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        moments = [s["exp_avg"].flatten() for s in optimizer.state.values() if "exp_avg" in s]
        self.seen.append((weights, torch.cat(moments) if moments else None))


@pytest.mark.parametrize("factor", [torch.nan, torch.inf, 0.0])
def test_a_step_without_a_gradient_to_follow_changes_nothing(tiny, tmp_path, factor):
    watched, skip = Weights(), SkipNonFinite()
    network = broken_model(tiny, {1, 5, 6}, factor)
    trainer = tiny.train(tmp_path, network=network, callbacks=[skip, watched])
    assert skip.skipped == 3
    assert skipped_steps(trainer.state) == 3
    assert [row["skipped_steps"] for row in trainer.state.log_history if "loss" in row][:7] == [
        *(1, 1, 1, 1, 2, 3, 3)
    ]
    assert watched.seen[0][1] is None
    for step in (5, 6):
        for before, after in zip(watched.seen[step - 2], watched.seen[step - 1], strict=True):
            assert torch.equal(before, after)
    for step in (2, 4, 7, 12):
        assert not torch.equal(watched.seen[step - 2][0], watched.seen[step - 1][0])
        assert watched.seen[step - 1][0].isfinite().all()


def test_the_count_survives_a_resume(tiny, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, network=broken_model(tiny, {2}), callbacks=[SkipNonFinite(), Stop()])
    trainer = tiny.train(tmp_path, callbacks=[SkipNonFinite()])
    assert skipped_steps(trainer.state) == 1


def test_broken_weights_end_the_run(tiny, tmp_path):
    network = broken_model(tiny, range(10_000))
    words = (f"--max_steps={MOST_IN_A_ROW + 10}", "--save_strategy=no")
    with pytest.raises(FloatingPointError, match=f"{MOST_IN_A_ROW} steps in a row"):
        tiny.train(tmp_path, *words, network=network, callbacks=[SkipNonFinite()])


PLATEAU = (
    "--lr_scheduler_type=reduce_lr_on_plateau",
    '--lr_scheduler_kwargs={"factor": 0.5, "patience": 0, "threshold": 0.3}',
    "--eval_strategy=steps",
    "--eval_steps=1",
    "--metric_for_best_model=eval_loss",
    "--learning_rate=0.3",
)


def rates(trainer):
    return [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]


def test_a_schedule_that_follows_the_validation_goes_on_where_it_was(tiny, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                raise KeyboardInterrupt

    data = {"eval_dataset": tiny.Tokens()}
    whole = tiny.train(tmp_path / "whole", *PLATEAU, **data)
    assert len(set(rates(whole)[:6])) > 1  # it was lowered before the checkpoint, and after
    assert len(set(rates(whole)[6:])) > 1
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path / "cut", *PLATEAU, callbacks=[Stop()], **data)
    resumed = tiny.train(tmp_path / "cut", *PLATEAU, **data)
    assert rates(resumed) == rates(whole)
    assert tiny.losses(resumed) == tiny.losses(whole)
