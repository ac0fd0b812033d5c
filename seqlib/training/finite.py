# SPDX-License-Identifier: Apache-2.0
"""Steps whose gradient is not finite, or nothing, are left out and counted."""

import logging
import math
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 50
_KEY = "skipped_steps"


class SkipNonFinite(TrainerCallback):
    """Takes the gradients away from an optimizer step that would write NaN into the weights.

    So it does where all gradients are zero, because the loss left out the whole batch: moments
    would go on without data. Parameters, moments and weight decay stay as they were; the schedule
    goes on. Every entry of the log has the number of such steps so far. Ranks see the same
    reduced gradients, so all of them skip together. With float16 the scaler of the loss does
    this itself.

    Raises:
        FloatingPointError: 50 such steps in a row, which no single bad batch explains.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._in_a_row = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.skipped = skipped_steps(state)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if getattr(optimizer, "scaler", None) is not None:
            return
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if not grads:
            return
        norm = _total_norm(grads)
        finite = math.isfinite(norm)
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if finite and norm > 0:
            return
        optimizer.zero_grad(set_to_none=True)  # nothing to step with
        self.skipped += 1
        if not finite:
            logger.warning("step %d: the gradient is not finite, skipped", state.global_step + 1)
        if self._in_a_row >= MOST_IN_A_ROW:
            raise FloatingPointError(
                f"the gradients of {self._in_a_row} steps in a row were not finite: the weights or "
                "the data are broken, or learning_rate is too high"
            )

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.log_history[-1][_KEY] = self.skipped


def skipped_steps(state: TrainerState) -> int:
    """How many steps a run has skipped up to the last entry of its log."""
    return max((int(entry.get(_KEY, 0)) for entry in state.log_history), default=0)


def _total_norm(grads: list[Tensor]) -> float:
    total: Any = torch.nn.utils.get_total_norm(grads)
    return float(total.full_tensor() if hasattr(total, "full_tensor") else total)
