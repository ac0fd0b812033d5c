# SPDX-License-Identifier: Apache-2.0
"""Training for a given time: a clock that survives a resume, and schedules that follow it."""

import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import broadcast
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_scheduler,
)

# A budget is cut into this many steps for transformers' schedules, which count whole steps.
TICKS = 100_000


class Clock:
    """Seconds of training spent, over all the processes that resumed one run.

    It starts with the end of a process's first step, so that the time in which kernels are
    compiled and caches filled is charged to no schedule.
    """

    def __init__(self, budget: float):
        self.budget = budget
        self.elapsed = 0.0
        self._started: float | None = None

    @property
    def fraction(self) -> float:
        return min(self.elapsed / self.budget, 1.0)

    def tick(self, device: torch.device) -> None:
        """Take the time of the first rank as that of all, so that all change course together."""
        now = time.monotonic()
        if self._started is None:
            self._started = now - self.elapsed
        elapsed = torch.tensor([now - self._started], dtype=torch.float32, device=device)
        shared: Any = broadcast(elapsed)
        self.elapsed = float(shared)


class TimeBudget(TrainerCallback):
    """Moves the clock once per optimizer step and ends the training when the budget is spent."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.clock.tick(args.device)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.clock.fraction >= 1:
            control.should_training_stop = True
            control.should_log = True
            control.should_save = args.save_strategy != "no"


class ElapsedTimeSchedule(LRScheduler):
    """Any step-wise schedule of transformers, driven by the fraction of a time budget spent."""

    def __init__(self, optimizer: Optimizer, clock: Clock, shape: Callable[[int], float]):
        self.clock, self.shape = clock, shape
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        factor = self.shape(round(self.clock.fraction * TICKS))
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        del state["clock"], state["shape"]
        return {**state, "elapsed": self.clock.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self.clock.elapsed = state.pop("elapsed")
        super().load_state_dict(state)


def elapsed_time_schedule(
    args: TrainingArguments, optimizer: Optimizer, clock: Clock
) -> ElapsedTimeSchedule:
    """The schedule named by `args.lr_scheduler_type`, over time instead of steps.

    Raises:
        ValueError: a schedule that is no function of progress, such as one that follows a metric.
    """
    options: Any = args.lr_scheduler_kwargs
    schedule = get_scheduler(
        args.lr_scheduler_type,
        optimizer=SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=round(args.warmup_steps * TICKS),
        num_training_steps=TICKS,
        scheduler_specific_kwargs=options,
    )
    if not isinstance(schedule, LambdaLR):
        raise ValueError(
            f"lr_scheduler_type must be a function of progress with train_minutes, got "
            f"{args.lr_scheduler_type}"
        )
    return ElapsedTimeSchedule(optimizer, clock, schedule.lr_lambdas[0])
