# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer with atomic checkpoints, exact resume and training for a given time."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from seqlib.layers.optim import tag_parameters

from . import checkpoints, cpu, parameter_groups
from .arguments import TrainSettings
from .clock import Clock, TimeBudget, elapsed_time_schedule
from .epochs import TellEpoch
from .progress import LossBar
from .stopwatch import Stopwatch

logger = logging.getLogger(__name__)


class SeqTrainer(Trainer):
    """A Trainer whose runs can be killed at any moment and go on as if they had not been.

    Checkpoints get their name when they are complete and on the disk. With `train_minutes` the
    schedule and the end follow the clock.

    Parameters tagged by `seqlib.layers.optim` have their own learning rate and weight decay; biases
    and norms have no weight decay. A schedule scales all rates by the same factor; the log has
    "learning_rate" for the run's and "learning_rate/0.001" for those that peak at 0.001. Shards of
    FSDP are new parameters: they get the tags that modules declare, those set by hand are lost. An
    optimizer in a DeepSpeed file is made by DeepSpeed, without tags: leave it out of the file.
    """

    args: TrainSettings
    model: Any  # a PreTrainedModel, wrapped or not
    processing_class: Any

    def __init__(self, model: nn.Module, args: TrainSettings, **kwargs: Any):
        if args.device.type == "cpu":
            cpu.tune()
            cpu.say_threads(args.world_size)
        super().__init__(model, args, **kwargs)
        self._staged_dir: Path | None = None
        self._own_rates: dict[str, float] = {}
        self.clock = Clock(60 * args.train_minutes) if args.train_minutes else None
        if self.clock is not None:
            self.add_callback(TimeBudget(self.clock))
        self.add_callback(Stopwatch())
        self.add_callback(TellEpoch())
        self.add_callback(_LogWhenSaving())
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if not args.disable_tqdm:
            self.add_callback(LossBar(self.clock))

    def train(self, resume_from_checkpoint: str | Path | None = None, **kwargs: Any) -> TrainOutput:
        """Train from the start or from a checkpoint, which must belong to this model.

        Raises:
            CheckpointError: a checkpoint that is damaged or of another model or tokenizer, or one
                that can't be written; the last good one is left as it was.
        """
        if resume_from_checkpoint is None:
            return super().train(**kwargs)
        checkpoint = Path(resume_from_checkpoint)
        checkpoints.check_belongs(checkpoint, self.model, self.processing_class)
        with checkpoints.reading(checkpoint):
            state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE_FILE))
        if self._is_finished(checkpoint, state):
            # transformers would train for one more step to find that out
            logger.info("%s is the end of a finished run: nothing to train", checkpoint)
            self._load_from_checkpoint(str(checkpoint))
            self.state = state
            return TrainOutput(state.global_step, float("nan"), {})
        checkpoints.check_whole(checkpoint)
        return super().train(resume_from_checkpoint=str(checkpoint), **kwargs)

    def create_optimizer(self, *model: Any) -> Optimizer:  # transformers 5.23 gives one at times
        optimizer: Any = self.optimizer
        if optimizer is None:
            (target,) = model or (self.model,)
            tag_parameters(target)
            parameter_groups.check_optimizer(self.args.optim, target)
            optimizer = super().create_optimizer(*model)
            parameter_groups.split_groups(optimizer)
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        tags = {n: parameter_groups.tag_of(p) for n, p in model.named_parameters()}
        names = super().get_decay_parameter_names(model)
        return [n for n in names if tags.get(n, {}).get("weight_decay") != 0]

    def _get_learning_rate(self) -> float:
        # asked before a schedule moves on, and logged after
        optimizer: Any = self.optimizer
        self._own_rates = parameter_groups.learning_rates(optimizer)
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "learning_rate" in logs:
            logs = logs | self._own_rates
        super().log(logs, *args, **kwargs)

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        if self.clock is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            target: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = elapsed_time_schedule(self.args, target, self.clock)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        with checkpoints.reading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with checkpoints.reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Take moments and progress from a checkpoint, but rates and decays from the settings."""
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        # a schedule that follows a metric has no base rates: its rates are what it came to
        base_lrs = list(getattr(schedule, "base_lrs", ()))
        with checkpoints.reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if not base_lrs:
            for group, options in zip(optimizer.param_groups, settings, strict=True):
                group.update(options, lr=group["lr"])
            return
        for group, options, base, loaded in zip(
            optimizer.param_groups, settings, base_lrs, schedule.base_lrs, strict=True
        ):
            factor = 1.0 if base == loaded or loaded == 0 else base / loaded
            group.update(options, lr=group["lr"] * factor)
        schedule.base_lrs = base_lrs
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]  # for the log

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if _internal_call or not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        # transformers writes no whole model from shards unless checkpoints are whole as well
        self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staged_dir is None else str(self._staged_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let transformers write into a folder of its own, then rename what it wrote."""
        run_dir = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staged = checkpoints.staging(run_dir) / name
        with checkpoints.clear_errors(run_dir):
            if self.args.should_save:
                checkpoints.clear_staging(run_dir)
            self.accelerator.wait_for_everyone()
            self._staged_dir = staged.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staged_dir = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._complete(staged, run_dir / name)
                checkpoints.publish(staged, run_dir / name)
                rotate_checkpoints(
                    str(run_dir), self.args.save_total_limit, self.state.best_model_checkpoint
                )
            self.accelerator.wait_for_everyone()

    def _complete(self, staged: Path, final: Path) -> None:
        """What transformers leaves out of sharded checkpoints, and the path it could not know."""
        if not (staged / "config.json").exists():
            self.model.config.save_pretrained(staged)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(staged)
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(staged / checkpoints.STATE_FILE))

    def _is_finished(self, checkpoint: Path, state: TrainerState) -> bool:
        if self.clock is not None:
            with checkpoints.reading(checkpoint):
                schedule = torch.load(checkpoint / SCHEDULER_NAME, weights_only=True)
            return schedule.get("elapsed", 0.0) >= self.clock.budget
        if self.args.max_steps > 0:
            return state.global_step >= self.args.max_steps
        return (state.epoch or 0.0) >= self.args.num_train_epochs


class _LogWhenSaving(TrainerCallback):
    """A loss is averaged since the last log: one falls on every save, so that a resume agrees."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_log = control.should_log or control.should_save
