# SPDX-License-Identifier: Apache-2.0
"""Every model of a grid on every task, with and without negative eigenvalues, in one plot.

    accelerate launch recipes/state_tracking/compare.py recipes/state_tracking/grids/cpu.yaml

Runs that are finished are read, an interrupted one goes on, missing ones are made.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from train import main as train

from seqlib.evaluation.tracking_plot import plot_tracking
from seqlib.evaluation.tracking_report import TrackedRun, tracking_markdown, tracking_screen
from seqlib.mixers.names import unknown_name
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.run import set_up_logging
from seqlib.training.settings import as_mapping, as_words, file_name, parse_settings

CONFIGS = Path(__file__).resolve().parent / "configs"
KEYS = ("config", "models", "seeds", "negative_eigenvalues")


@dataclass
class GridSettings:
    """Tasks by their configuration, and models by what they change in it."""

    tasks: dict | str | None = field(
        default=None,
        metadata={
            "help": "By title: blocks of a config, names of models, seeds (0 by default) and "
            "negative_eigenvalues (true and false by default)."
        },
    )
    models: dict | str | None = field(
        default=None, metadata={"help": "By name: the settings that make the model."}
    )
    settings: dict | str | None = field(
        default=None, metadata={"help": "Settings of every run, over those of its config."}
    )
    output_dir: str = field(
        default="outputs/state_tracking", metadata={"help": "Where runs and their comparison go."}
    )

    def __post_init__(self) -> None:
        self.tasks = as_mapping("tasks", self.tasks)
        self.models = as_mapping("models", self.models)
        self.settings = as_mapping("settings", self.settings)
        if not self.tasks:
            raise ValueError("tasks must hold at least one task, got none")
        for title, blocks in self.tasks.items():
            for block in blocks:
                self._check(title, block)

    def _check(self, title: str, block: Mapping[str, Any]) -> None:
        for key in block:
            if key not in KEYS:
                raise unknown_name(f"key of the task {title!r}", key, KEYS)
        for key in ("config", "models"):
            if not block.get(key):
                raise ValueError(f"the task {title!r} must have a value for {key!r}")
        if not (CONFIGS / block["config"]).is_file():
            known = [path.name for path in CONFIGS.glob("*.yaml")]
            raise unknown_name("config", block["config"], known)
        for name in block["models"]:
            if name not in as_mapping("models", self.models):
                raise unknown_name("model of the grid", name, as_mapping("models", self.models))


def main(words: Sequence[str]) -> list[TrackedRun]:
    """The runs of the grid on the first process, none on others."""
    (grid,) = parse_settings([GridSettings], words)
    folder = Path(grid.output_dir)
    runs: list[TrackedRun] = []
    for title, blocks in grid.tasks.items():
        for words in (words for block in blocks for words in runs_of(grid, title, block)):
            run = train(words)
            runs += [] if run is None else [run]
        if runs:  # only the first process has any
            write(runs, folder)
    console = Console()
    for table in tracking_screen(runs):
        console.print(table)
    return runs


def runs_of(grid: GridSettings, title: str, block: Mapping[str, Any]) -> Iterator[list[str]]:
    """The command lines of a block's runs."""
    models, settings = as_mapping("models", grid.models), as_mapping("settings", grid.settings)
    for name in block["models"]:
        for negative in block.get("negative_eigenvalues", (True, False)):
            for seed in block.get("seeds", [0]):
                leaf = f"{name}_{'negative' if negative else 'positive'}_seed{seed}"
                options = {
                    **models[name],
                    **settings,
                    "negative_eigenvalues": negative,
                    "seed": seed,
                    "task_name": title,
                    "model_name": name,
                    "output_dir": str(Path(grid.output_dir) / file_name(title) / file_name(leaf)),
                }
                yield [str(CONFIGS / block["config"]), *as_words(options)]


def write(runs: Sequence[TrackedRun], folder: Path) -> None:
    """The comparison: curves, tables, and everything as a line of JSON per run."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_tracking(runs, folder / "comparison.png")
    (folder / "comparison.md").write_text(tracking_markdown(runs), encoding="utf-8")
    lines = (json.dumps(run.to_dict()) + "\n" for run in runs)
    (folder / "comparison.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1:])
    except (ValueError, CheckpointError) as error:
        sys.exit(f"error: {error}")
