# SPDX-License-Identifier: Apache-2.0
"""What noise at one frequency does to diagonal state-space models, and what it does not.

    accelerate launch recipes/robustness/run.py

Transfer functions, condition numbers and a delay line, none of which needs training; then small
classifiers trained on clean sequences. Runs that are finished are read.
"""

import dataclasses
import gc
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from train import main as train

from seqlib.evaluation.ssm_delay_line import delay_curves, delay_line, delay_table
from seqlib.evaluation.ssm_deviation import (
    loss_of_diagonal,
    loss_table,
    standing,
    standing_table,
    trades,
)
from seqlib.evaluation.ssm_noise import NoisyRun, noise_curves, noise_table
from seqlib.evaluation.ssm_plots import plot_by_amplitude, plot_trades, plot_transfers
from seqlib.evaluation.ssm_systems import systems
from seqlib.mixers.names import unknown_name
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.record import describe
from seqlib.training.run import set_up_logging
from seqlib.training.settings import as_mapping, parse_settings

CONFIGS = Path(__file__).resolve().parent / "configs"
NAMES = {"legs": "S4D-LegS", "ptd": "S4-PTD, optimised", "ptd_rank1": "S4-PTD, rank one"}


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class RobustnessSettings:
    """What is computed of the systems themselves, and what is trained."""

    sizes: list[int] = field(
        default_factory=lambda: [8, 16, 32, 64, 128],
        metadata=_help("States of the systems in the tables."),
    )
    size: int = field(default=32, metadata=_help("States in the plot and in the delay line."))
    trade_sizes: list[int] = field(
        default_factory=lambda: [16, 64],
        metadata=_help("States of the perturbations whose size is varied."),
    )
    thetas: list[float] = field(
        default_factory=lambda: [0.1, 0.2, 0.3],
        metadata=_help("Rank-one perturbations in the delay line."),
    )
    amplitudes: list[float] = field(
        default_factory=lambda: [0.0, 0.03, 0.1, 0.3],
        metadata=_help("Of the noise in the delay line, 0 among them."),
    )
    delay_seeds: int = field(default=4, metadata=_help("How often the delay line is drawn."))
    configs: list[str] = field(
        default_factory=lambda: ["digits_published_cpu", "digits_cpu"],
        metadata=_help("The presets that are trained."),
    )
    inits: list[str] = field(
        default_factory=lambda: list(NAMES),
        metadata=_help("What the S4 layers of a model start from."),
    )
    trained_seeds: int = field(
        default=3, metadata=_help("How often each model is trained; 0 leaves the training out.")
    )
    settings: dict | str | None = field(
        default=None, metadata=_help("Settings of every run, over those of the preset.")
    )
    output_dir: str = field(
        default="outputs/robustness", metadata=_help("Where runs, plots and tables go.")
    )

    def __post_init__(self) -> None:
        self.settings = as_mapping("settings", self.settings)
        known = [path.stem for path in sorted(CONFIGS.glob("*.yaml"))]
        for config in self.configs:
            if config not in known:
                raise unknown_name("config", config, known)


def main(words: Sequence[str]) -> Path:
    """Everything, written into a folder by the first process."""
    (settings,) = parse_settings([RobustnessSettings], words)
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[NoisyRun]] = {}
    for config in settings.configs:
        made = [run for words in runs_of(settings, config) if (run := train(words)) is not None]
        runs |= {config: made} if made else {}
    if settings.trained_seeds == 0 or runs:  # only the first process has any
        write(settings, folder, runs)
    return folder


def runs_of(settings: RobustnessSettings, config: str) -> Iterator[list[str]]:
    """The command lines of the models to train from a preset."""
    for init in settings.inits:
        for seed in range(settings.trained_seeds):
            options = {
                **as_mapping("settings", settings.settings),
                "mixer_kwargs.s4.init": init,
                "model_name": NAMES.get(init, init),
                "seed": seed,
                "output_dir": Path(settings.output_dir) / config / f"{init}_seed{seed}",
            }
            words = (f"--{name}={value}" for name, value in options.items())
            yield [str(CONFIGS / f"{config}.yaml"), *words]


def write(
    settings: RobustnessSettings, folder: Path, runs: Mapping[str, Sequence[NoisyRun]]
) -> None:
    """Plots, a page of tables, and everything as a line of JSON per result."""
    losses = [loss_of_diagonal(n) for n in settings.sizes]
    standings = [standing(system) for n in settings.sizes for system in systems(n)[1:]]
    varied = [trade for n in settings.trade_sizes for trade in trades(n)]
    compared = systems(settings.size, settings.thetas)
    scores = [
        score
        for seed in range(settings.delay_seeds)
        for score in delay_line(compared, settings.amplitudes, seed=seed)
    ]
    plot_transfers(settings.size, folder / "transfer.png")
    plot_trades(varied, folder / "condition.png")
    plot_by_amplitude(
        delay_curves(scores),
        settings.amplitudes,
        folder / "delay_line.png",
        ylabel="NRMSE of the delayed signal",
        logarithmic=True,
    )
    parts = [
        "What the normal part of HiPPO-LegS loses",
        loss_table(losses),
        "Systems beside HiPPO",
        standing_table(standings),
        f"Delay line, n = {settings.size}: NRMSE",
        delay_table(scores),
    ]
    for config, group in runs.items():
        parts += [caption(group), noise_table(group)]
        plot_by_amplitude(
            noise_curves(group), group[0].amplitudes, folder / f"{config}.png", ylabel="accuracy"
        )
    (folder / "robustness.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    trained = [run for group in runs.values() for run in group]
    rows = lines([*losses, *standings, *varied, *scores, *trained], describe([settings], {}))
    (folder / "robustness.jsonl").write_text("".join(rows), encoding="utf-8")


def caption(runs: Sequence[NoisyRun]) -> str:
    """What the table of trained models shows."""
    run = runs[0]
    settings = run.origin["settings"]
    form = "no residual connections, no D" if settings["published_form"] else "residual, D"
    return (
        f"{run.origin['data']['task']}, {settings['num_hidden_layers']} layers ({form}), "
        f"{run.steps} steps: accuracy on {run.sequences} sequences with noise in every layer, "
        f"the commonest answer {run.majority:.3f}"
    )


def lines(results: Iterable[Any], record: dict[str, Any]) -> Iterator[str]:
    """A line per result that says what it is and what it was computed with."""
    for result in results:
        row = {"result": type(result).__name__, **dataclasses.asdict(result)}
        if "origin" not in row:
            row["origin"] = {"commit": record["commit"], "versions": record["versions"]}
        yield json.dumps(row) + "\n"


if __name__ == "__main__":
    set_up_logging()
    try:
        written = main(sys.argv[1:])
    except (ImportError, ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    Console().print(f"everything is in {written}", highlight=False)
    gc.collect()  # models hold the process group, whose threads must not outlive the interpreter
