# SPDX-License-Identifier: Apache-2.0
"""Data that are drawn anew in every epoch hear which one it is."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TellEpoch(TrainerCallback):
    """Calls `set_epoch` of the training data at the start of each epoch.

    accelerate does so as well, but not with several processes and a shuffling sampler.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        dataset = kwargs["train_dataloader"].dataset
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(int(state.epoch or 0))
