# SPDX-License-Identifier: Apache-2.0
"""The progress bar: how far the training is, the loss, and tokens per second."""

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .clock import Clock


class LossBar(TrainerCallback):
    """One bar over steps, or over seconds where a clock ends the training."""

    def __init__(self, clock: Clock | None = None):
        self.clock = clock
        self.bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self.bar = tqdm(
            total=round(self.clock.budget) if self.clock else state.max_steps,
            initial=self._position(state),
            unit="s" if self.clock else "step",
            desc="training",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.update(self._position(state) - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not logs or "loss" not in logs:
            return
        shown = {"step": state.global_step, "loss": f"{logs['loss']:.3f}"}
        if "train_tokens_per_second" in logs:
            shown["tokens/s"] = f"{logs['train_tokens_per_second']:,.0f}"
        self.bar.set_postfix(shown, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _position(self, state: TrainerState) -> int:
        return int(min(self.clock.elapsed, self.clock.budget)) if self.clock else state.global_step
