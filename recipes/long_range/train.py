# SPDX-License-Identifier: Apache-2.0
"""Train a classifier of long sequences, watch its accuracy, and test it."""

import dataclasses
import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoModelForSequenceClassification, set_seed

from seqlib.evaluation import plot_losses
from seqlib.evaluation.classification import accuracy_while_training, classify
from seqlib.evaluation.classification_report import (
    ClassifiedRun,
    classification_markdown,
    classification_screen,
    plot_classification,
)
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.finished import origin, read_finished
from seqlib.training.long_range import (
    ClassifierSettings,
    LongRangeData,
    SequenceSettings,
    build_classifier,
    prepare_sequences,
)
from seqlib.training.record import describe
from seqlib.training.report import write_metrics
from seqlib.training.run import set_up_logging, train_in_folder
from seqlib.training.settings import parse_settings
from seqlib.training.stopwatch import seconds_trained
from seqlib.training.trainer import SeqTrainer


@dataclass
class NameSettings:
    """What tables and plots call the run."""

    model_name: str | None = field(default=None, metadata={"help": "By default the mixers."})


def main(words: Sequence[str]) -> ClassifiedRun | None:
    """Train and test, or read a run that is finished; None on all processes but the first."""
    sequences, model, training, names = parse_settings(
        [SequenceSettings, ClassifierSettings, TrainSettings, NameSettings], words
    )
    data = prepare_sequences(sequences)
    record = describe([sequences, model, training], data.identity())
    metrics = read_finished(training, record, {"split": data.tested})
    run = None if metrics is None else ClassifiedRun.from_dict(metrics["run"])
    if run is None:
        trainer = train(sequences, model, training, data)
        if trainer.is_world_process_zero():
            run = test(trainer, [sequences, model], data, record)
        trainer.accelerator.end_training()
    if run is None:
        return None
    run = dataclasses.replace(run, model=names.model_name or run.model)
    report(run, Path(str(training.output_dir)))
    return run


def train(
    sequences: SequenceSettings,
    model: ClassifierSettings,
    training: TrainSettings,
    data: LongRangeData,
) -> SeqTrainer:
    set_seed(training.seed)
    return train_in_folder(
        build_classifier(model, data),
        data.train,
        training,
        [sequences, model],
        data.identity(),
        data_collator=data.train.collate,
        eval_dataset=data.sequences[data.watched],
        compute_metrics=accuracy_while_training,
    )


def test(
    trainer: SeqTrainer, settings: Sequence[Any], data: LongRangeData, record: Mapping[str, Any]
) -> ClassifiedRun:
    """Score the model as a user loads it, and write what is known about the run."""
    folder, log = Path(str(trainer.args.output_dir)), trainer.state.log_history
    network: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    run = ClassifiedRun(
        task=record["data"]["task"],
        model=", ".join(dict.fromkeys(network.config.block_types)),
        seed=trainer.args.seed,
        steps=trainer.state.global_step,
        minutes=round(seconds_trained(trainer.state) / 60, 2),
        parameters=network.num_parameters(),
        score=classify(
            network.to(trainer.args.device),
            data.sequences[data.tested],
            data.tested,
            trainer.args.eval_batch_size,
        ),
        curve=[(int(row["step"]), row["eval_accuracy"]) for row in log if "eval_accuracy" in row],
        curve_split=data.watched,
        origin=origin(settings, trainer.args, record),
    )
    write_metrics(folder, {"run": run.to_dict(), "test": {"split": data.tested}, "log": log})
    plot_losses(log, folder / "loss.png", title=folder.name, unit="nats per sequence")
    return run


def report(run: ClassifiedRun, folder: Path) -> None:
    """The table as a file and on the screen, and the curve."""
    (folder / "accuracy.md").write_text(classification_markdown([run]), encoding="utf-8")
    plot_classification([run], folder / "accuracy.png")
    console = Console()
    for table in classification_screen([run]):
        console.print(table)
    console.print(f"everything is in {folder}", highlight=False)


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1:])
    except (ImportError, ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    gc.collect()  # models hold the process group, whose threads must not outlive the interpreter
