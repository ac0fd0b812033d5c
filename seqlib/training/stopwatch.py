# SPDX-License-Identifier: Apache-2.0
"""How long a run has trained, over all the processes that resumed it."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Stopwatch(TrainerCallback):
    """Adds to every entry of the log the seconds trained so far, whatever was resumed since.

    Unlike `Clock` it decides nothing, and what the first step compiles counts.
    """

    def __init__(self) -> None:
        self._started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.monotonic() - seconds_trained(state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.log_history[-1]["seconds"] = round(time.monotonic() - self._started, 1)


def seconds_trained(state: TrainerState) -> float:
    """How long a run has trained up to the last entry of its log."""
    return max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
