# SPDX-License-Identifier: Apache-2.0
"""One training run from start, or from where it stopped, to a model in its output folder."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from .arguments import TrainSettings
from .checkpoints import clear_errors
from .record import describe, open_run, write_record
from .trainer import SeqTrainer


def train_in_folder(
    model: PreTrainedModel,
    dataset: Dataset,
    args: TrainSettings,
    settings: Sequence[Any],
    data: Mapping[str, Any],
    **trainer_options: Any,
) -> SeqTrainer:
    """Train `model` on `dataset` and leave it in `args.output_dir`, ready for `from_pretrained`.

    The record of the run is written before the first step. An unfinished run of the same
    settings in that folder goes on; a finished one is only loaded.

    Args:
        settings: the other dataclasses that the run was made from, for its record.
        data: what tells this data from any other, for the same.
        trainer_options: further arguments of the trainer, such as `processing_class`.

    Raises:
        CheckpointError: the folder holds another run, a checkpoint doesn't fit, or one can't be
            written.
    """
    record = describe([*settings, args], data)
    checkpoint = open_run(str(args.output_dir), record, args.resume_from_checkpoint)
    trainer = SeqTrainer(model, args, train_dataset=dataset, **trainer_options)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        write_record(str(args.output_dir), record)
    trainer.train(checkpoint)
    with clear_errors(str(args.output_dir)):
        trainer.save_model()
    return trainer


def set_up_logging() -> None:
    """For a program that trains: this library's messages, and one progress bar."""
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("seqlib").setLevel(logging.INFO)
    disable_progress_bar()  # of every single file saved; training has its own bar
