# SPDX-License-Identifier: Apache-2.0
"""transformers' TrainingArguments with the few settings and defaults that this project adds."""

import logging
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from .cpu import bf16_matmul_is_slow

logger = logging.getLogger(__name__)

# What transformers takes any number for.
_LEAST = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": 0}

_UPLOADS_CHECKPOINTS = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


@dataclass
class TrainSettings(TrainingArguments):
    """How to train. Everything transformers' TrainingArguments offers, and:

    Raises:
        ValueError: settings out of range or that exclude each other, a launch that did not start
            the processes expected of it, or 16 bits on a CPU that would ignore them (float16) or
            be slower with them (bfloat16).
    """

    train_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Train for so many minutes instead of max_steps or num_train_epochs. The "
            "learning-rate schedule follows the time, which is stored in checkpoints. 0: by steps."
        },
    )
    expect_processes: int | None = field(
        default=None,
        metadata={"help": "Stop unless exactly so many processes train together."},
    )
    resume_from_checkpoint: str | None = field(
        default="auto",
        metadata={
            "help": "'auto' goes on with the unfinished run in output_dir if there is one; a path "
            "starts from that checkpoint, whatever the settings it was made with."
        },
    )
    output_dir: str | None = field(
        default="outputs/run", metadata={"help": "Where checkpoints, records and results go."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "The peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The schedule's shape."})
    warmup_steps: float = field(
        default=0.02, metadata={"help": "Warm-up in steps, or below 1 as a part of the training."}
    )
    weight_decay: float = field(default=0.1, metadata={"help": "Not applied to biases and norms."})
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second beta."})
    # the parser takes the second of these kinds
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="tensorboard", metadata={"help": "Trackers, or 'none'."}
    )
    # as text only: the parser would take the words of a `str | bool` for yes or no
    include_num_input_tokens_seen: str = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="all", metadata={"help": "Count tokens: 'all', 'non_padding' or 'no'."}
    )

    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Only for models that leave out parameters at times."}
    )

    def __post_init__(self) -> None:
        self.train_minutes = self.train_minutes or None
        if self.train_minutes is not None:
            self._check_minutes(self.train_minutes)
            self.num_train_epochs = 1e6  # ended by the clock
        super().__post_init__()
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is no device to pin memory for
        if self.push_to_hub and self.hub_strategy in _UPLOADS_CHECKPOINTS:
            raise ValueError(
                "hub_strategy must be 'end' or 'every_save', got "
                f"{self.hub_strategy!r}: a checkpoint gets its name when it is complete"
            )
        if self.expect_processes not in (None, self.world_size):
            raise ValueError(
                f"expect_processes is {self.expect_processes}, but {self.world_size} started: see "
                "recipes/accelerate/README.md for launches that start what they are asked for"
            )
        if self.mixed_precision == "fp16" and self.device.type == "cpu":
            raise ValueError("fp16 must be false on a CPU: accelerate ignores it there")
        if self.mixed_precision == "bf16" and self.device.type == "cpu" and bf16_matmul_is_slow():
            raise ValueError(
                "bf16 must be false on this CPU: its bfloat16 products are slower than float32"
            )

    @property
    def device(self) -> torch.device:
        """Where this process trains; a CPU without the rank that accelerate numbers it by.

        transformers 5.17 loads the optimizer to this place, and torch knows no "cpu:1".
        """
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    def _check_minutes(self, minutes: float) -> None:
        if minutes < 0:
            raise ValueError(f"train_minutes must not be negative, got {minutes}")
        if self.max_steps > 0:
            raise ValueError(
                f"train_minutes and max_steps exclude each other, got {minutes} and "
                f"{self.max_steps}"
            )
        if self.warmup_steps >= 1:
            raise ValueError(
                "warmup_steps must be a part of the training (below 1) with train_minutes, got "
                f"{self.warmup_steps}"
            )
