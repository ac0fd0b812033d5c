# SPDX-License-Identifier: Apache-2.0
"""Train a model on a state-tracking task and test it on longer sequences than it was trained on."""

import dataclasses
import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoModelForTokenClassification, set_seed

from seqlib.evaluation import plot_losses
from seqlib.evaluation.state_tracking import track
from seqlib.evaluation.tracking_plot import plot_tracking
from seqlib.evaluation.tracking_report import TrackedRun, tracking_markdown, tracking_screen
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.finished import origin, read_finished
from seqlib.training.record import describe
from seqlib.training.report import write_metrics
from seqlib.training.run import set_up_logging, train_in_folder
from seqlib.training.settings import parse_settings
from seqlib.training.state_tracking import (
    TaskData,
    TaskSettings,
    TrackerSettings,
    build_tracker,
    prepare_task,
)
from seqlib.training.stopwatch import seconds_trained
from seqlib.training.trainer import SeqTrainer


@dataclass
class NameSettings:
    """What tables and plots call the run."""

    task_name: str | None = field(default=None, metadata={"help": "By default from the task."})
    model_name: str | None = field(default=None, metadata={"help": "By default the mixers."})


def main(words: Sequence[str]) -> TrackedRun | None:
    """Train and test, or read a run that is finished; None on all processes but the first."""
    task, model, training, names = parse_settings(
        [TaskSettings, TrackerSettings, TrainSettings, NameSettings], words
    )
    data = prepare_task(task, training)
    record = describe([task, model, training], data.identity())
    metrics = read_finished(training, record, tested(task))
    run = None if metrics is None else TrackedRun.from_dict(metrics["run"])
    if run is None:
        trainer = train(task, model, training, data)
        if trainer.is_world_process_zero():
            run = test(trainer, task, model, data, record)
        trainer.accelerator.end_training()
    if run is None:
        return None
    run = dataclasses.replace(
        run, task=names.task_name or run.task, model=names.model_name or run.model
    )
    report(run, Path(str(training.output_dir)))
    return run


def train(
    task: TaskSettings, model: TrackerSettings, training: TrainSettings, data: TaskData
) -> SeqTrainer:
    set_seed(training.seed)
    network = build_tracker(model, data.task, task.context)
    return train_in_folder(
        network,
        data.train,
        training,
        [task, model],
        data.identity(),
        data_collator=data.train.collate,
    )


def test(
    trainer: SeqTrainer,
    task: TaskSettings,
    model: TrackerSettings,
    data: TaskData,
    record: Mapping[str, Any],
) -> TrackedRun:
    """Score the model as a user loads it, and write what is known about the run."""
    folder = Path(str(trainer.args.output_dir))
    network: Any = AutoModelForTokenClassification.from_pretrained(folder)
    score = track(network.to(trainer.args.device), data.test, trainer.args.eval_batch_size)
    run = TrackedRun(
        task=data.task.identity,
        model=", ".join(dict.fromkeys(network.config.block_types)),
        negative_eigenvalues=model.negative_eigenvalues,
        seed=trainer.args.seed,
        trained_length=task.train_lengths[1],
        steps=trainer.state.global_step,
        minutes=round(seconds_trained(trainer.state) / 60, 2),
        parameters=network.num_parameters(),
        score=score,
        origin=origin([task, model], trainer.args, record),
    )
    write_metrics(
        folder, {"run": run.to_dict(), "test": tested(task), "log": trainer.state.log_history}
    )
    plot_losses(trainer.state.log_history, folder / "loss.png", title=folder.name)
    return run


def tested(task: TaskSettings) -> dict[str, Any]:
    return {"lengths": list(task.eval_lengths), "examples": task.eval_examples}


def report(run: TrackedRun, folder: Path) -> None:
    """The table as a file and on the screen, and the curve."""
    (folder / "accuracy.md").write_text(tracking_markdown([run]), encoding="utf-8")
    plot_tracking([run], folder / "accuracy.png")
    console = Console()
    for table in tracking_screen([run]):
        console.print(table)
    console.print(f"everything is in {folder}", highlight=False)


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    gc.collect()  # models hold the process group, whose threads must not outlive the interpreter
