# SPDX-License-Identifier: Apache-2.0
"""What a run that trains and then tests leaves behind, and how it is found again."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .arguments import TrainSettings
from .record import open_run
from .report import METRICS_FILE

# settings of the training that belong beside a result
TOLD = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps", "num_train_epochs"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay"),
    *("adam_beta2", "max_grad_norm", "seed"),
)


def read_finished(
    training: TrainSettings, record: Mapping[str, Any], test: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The metrics that this very run, with this very test, left in its folder.

    Raises:
        CheckpointError: the folder holds another run.
    """
    path = Path(str(training.output_dir)) / METRICS_FILE
    if training.resume_from_checkpoint != "auto" or not path.is_file():
        return None
    open_run(path.parent, record, "auto")  # refuses a folder with another run
    metrics = json.loads(path.read_text(encoding="utf-8"))
    return metrics if metrics["test"] == test else None


def origin(
    settings: Sequence[Any], training: TrainSettings, record: Mapping[str, Any]
) -> dict[str, Any]:
    """What belongs beside a result: settings, data, commit, versions, device and threads."""
    told = {name: record["settings"][name] for name in TOLD}
    return {
        "settings": {k: v for part in settings for k, v in dataclasses.asdict(part).items()} | told,
        "data": record["data"],
        "commit": record["commit"],
        "versions": record["versions"],
        "device": training.device.type,
        "threads": torch.get_num_threads(),
    }
