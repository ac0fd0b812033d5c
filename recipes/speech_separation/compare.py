# SPDX-License-Identifier: Apache-2.0
"""Several networks trained for the same time on the same mixtures, in one table and one plot.

    accelerate launch recipes/speech_separation/compare.py \
        recipes/speech_separation/grids/cpu_tiny.yaml

Runs that are finished are read, an interrupted one goes on, missing ones are made.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from train import main as train

from seqlib.evaluation.separation_report import (
    SeparatedRun,
    plot_separation,
    separation_markdown,
    separation_screen,
)
from seqlib.mixers.names import unknown_name
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.run import set_up_logging
from seqlib.training.settings import as_mapping, as_words, file_name, parse_settings

CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclass
class GridSettings:
    """One configuration, and the networks by what they change in it."""

    config: str = field(default="cpu_tiny.yaml", metadata={"help": "A file of configs/."})
    models: dict | str | None = field(
        default=None, metadata={"help": "By name: the settings that make the network."}
    )
    settings: dict | str | None = field(
        default=None, metadata={"help": "Settings of every run, over those of its config."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "A run for each."})
    output_dir: str = field(
        default="outputs/speech_separation/compare",
        metadata={"help": "Where runs and their comparison go."},
    )

    def __post_init__(self) -> None:
        self.models = as_mapping("models", self.models)
        self.settings = as_mapping("settings", self.settings)
        if not self.models:
            raise ValueError("models must hold at least one model, got none")
        known = [path.name for path in CONFIGS.glob("*.yaml")]
        if self.config not in known:
            raise unknown_name("config", self.config, known)


def main(words: Sequence[str]) -> list[SeparatedRun]:
    """The runs of the grid on the first process, none on others."""
    (grid,) = parse_settings([GridSettings], words)
    folder = Path(grid.output_dir)
    runs: list[SeparatedRun] = []
    for words in runs_of(grid):
        run = train(words)
        if run is not None:  # only the first process has any
            runs.append(run)
            write(runs, folder)
    console = Console()
    for table in separation_screen(runs):
        console.print(table)
    return runs


def runs_of(grid: GridSettings) -> Iterator[list[str]]:
    """The command lines of the grid's runs."""
    for name, changes in as_mapping("models", grid.models).items():
        for seed in grid.seeds:
            leaf = file_name(f"{name}_seed{seed}")
            options = {
                **as_mapping("settings", grid.settings),
                **as_mapping(name, changes),
                "seed": seed,
                "model_name": name,
                "output_dir": str(Path(grid.output_dir) / leaf),
            }
            yield [str(CONFIGS / grid.config), *as_words(options)]


def write(runs: Sequence[SeparatedRun], folder: Path) -> None:
    """The comparison: curves and bars, tables, and everything as a line of JSON per run."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_separation(runs, folder / "comparison.png")
    (folder / "comparison.md").write_text(separation_markdown(runs), encoding="utf-8")
    lines = (json.dumps(run.to_dict()) + "\n" for run in runs)
    (folder / "comparison.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1:])
    except (ImportError, ValueError, OSError, FloatingPointError, CheckpointError) as error:
        sys.exit(f"error: {error}")
