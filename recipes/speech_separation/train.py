# SPDX-License-Identifier: Apache-2.0
"""Train a model that separates speakers, watch its validation loss, and test it."""

import dataclasses
import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from tasnet import TasNet, build_tasnet
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from seqlib.data.speech import collate_mixtures
from seqlib.evaluation import plot_losses
from seqlib.evaluation.separation_examples import write_example
from seqlib.evaluation.separation_report import (
    SeparatedRun,
    plot_separation,
    separation_markdown,
    separation_screen,
)
from seqlib.evaluation.separation_score import score_separation, separated
from seqlib.mixers.names import unknown_name
from seqlib.models.mossformer2 import MossFormer2ForSpeechSeparation
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.finished import origin, read_finished
from seqlib.training.finite import SkipNonFinite, skipped_steps
from seqlib.training.record import describe
from seqlib.training.report import write_metrics
from seqlib.training.run import set_up_logging, train_in_folder
from seqlib.training.separation import (
    MixtureData,
    MixtureSettings,
    SeparatorSettings,
    TestSettings,
    build_separator,
    prepare_mixtures,
)
from seqlib.training.settings import parse_settings
from seqlib.training.stopwatch import seconds_trained
from seqlib.training.trainer import SeqTrainer

NETWORKS = {
    "mossformer2": (MossFormer2ForSpeechSeparation, build_separator),
    "tasnet": (TasNet, build_tasnet),
}


@dataclass
class NameSettings:
    """What tables and plots call the run."""

    model_name: str | None = field(default=None, metadata={"help": "By default the network."})


def main(words: Sequence[str]) -> SeparatedRun | None:
    """Train and test, or read a run that is finished; None on all processes but the first."""
    mixtures, model, tested, training, names = parse_settings(
        [MixtureSettings, SeparatorSettings, TestSettings, TrainSettings, NameSettings], words
    )
    if model.network not in NETWORKS:
        raise unknown_name("network", model.network, NETWORKS)
    tested.check(mixtures.sample_rate)
    data = prepare_mixtures(mixtures, training.seed)
    record = describe([mixtures, model, tested, training], data.identity())
    metrics = read_finished(training, record, dataclasses.asdict(tested))
    run = None if metrics is None else SeparatedRun.from_dict(metrics["run"])
    if run is None:
        trainer = train(mixtures, model, tested, training, data)
        if trainer.is_world_process_zero():
            run = test(trainer, mixtures, model, tested, data, record)
        trainer.accelerator.end_training()
    if run is None:
        return None
    run = dataclasses.replace(run, model=names.model_name or run.model)
    report(run, Path(str(training.output_dir)))
    return run


def train(
    mixtures: MixtureSettings,
    model: SeparatorSettings,
    tested: TestSettings,
    training: TrainSettings,
    data: MixtureData,
) -> SeqTrainer:
    set_seed(training.seed)
    _, build = NETWORKS[model.network]
    return train_in_folder(
        build(model, sample_rate=data.speech.sampling_rate, num_speakers=data.speech.num_speakers),
        data.train,
        training,
        [mixtures, model, tested],
        data.identity(),
        data_collator=collate_mixtures,
        eval_dataset=data.validation,
        callbacks=[SkipNonFinite()],
    )


def test(
    trainer: SeqTrainer,
    mixtures: MixtureSettings,
    model: SeparatorSettings,
    tested: TestSettings,
    data: MixtureData,
    record: Mapping[str, Any],
) -> SeparatedRun:
    """Score the model as a user loads it, and write what is known about the run."""
    folder, log = Path(str(trainer.args.output_dir)), trainer.state.log_history
    kind, _ = NETWORKS[model.network]
    network = kind.from_pretrained(folder).to(trainer.args.device)
    scores, rate = [], data.speech.sampling_rate
    for split in data.tests:
        for i, example in enumerate(data.test(split, tested.eval_examples)):
            write_separated(network, example, folder / "examples", f"{split}-{i}", rate)
        chosen = data.test(split, tested.eval_mixtures)
        scores.append(
            score_separation(network, chosen, split, rate=rate, libraries=tested.eval_metrics)
        )
    run = SeparatedRun(
        data=data.speech.name,
        model=model.network,
        seed=trainer.args.seed,
        steps=trainer.state.global_step,
        minutes=round(seconds_trained(trainer.state) / 60, 2),
        parameters=network.num_parameters(),
        skipped_steps=skipped_steps(trainer.state),
        bad_files=data.train.bad_files,
        scores=scores,
        curve=[(row["seconds"] / 60, row["eval_loss"]) for row in log if "eval_loss" in row],
        origin=origin([mixtures, model], trainer.args, record),
    )
    metrics = {"run": run.to_dict(), "test": dataclasses.asdict(tested), "log": log}
    write_metrics(folder, metrics)
    plot_losses(log, folder / "loss.png", title=folder.name, unit="-SI-SNR in dB")
    return run


def write_separated(
    network: PreTrainedModel, example: Mapping[str, Tensor], folder: Path, name: str, rate: int
) -> None:
    """One mixture to listen to and to look at."""
    mixture = example["input_values"]
    write_example(folder, name, mixture, separated(network, mixture), example["labels"], rate)


def report(run: SeparatedRun, folder: Path) -> None:
    """The table as a file and on the screen, and the curve."""
    (folder / "separation.md").write_text(separation_markdown([run]), encoding="utf-8")
    plot_separation([run], folder / "separation.png")
    console = Console()
    for table in separation_screen([run]):
        console.print(table)
    console.print(f"everything is in {folder}", highlight=False)


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1:])
    except (ImportError, ValueError, OSError, FloatingPointError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    gc.collect()  # models hold the process group, whose threads must not outlive the interpreter
