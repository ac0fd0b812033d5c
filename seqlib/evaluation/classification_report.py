# SPDX-License-Identifier: Apache-2.0
"""Tables and curves of runs that classify sequences."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from .classification import ClassificationScore
from .curves import write_png
from .tables import markdown_table

HEADER = ("model", "accuracy", "majority", "loss", "parameters", "steps", "seed", "minutes")


@dataclass(frozen=True)
class ClassifiedRun:
    """One trained and tested model.

    Attributes:
        task, model: what tables and plots call them.
        minutes: how long it trained.
        score: on the split that nothing was chosen by.
        curve: (step, accuracy) while it trained, on the split named by `curve_split`.
        origin: data, settings, commit, versions: what else it was made from.
    """

    task: str
    model: str
    seed: int
    steps: int
    minutes: float
    parameters: int
    score: ClassificationScore
    curve: Sequence[tuple[int, float]]
    curve_split: str
    origin: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClassifiedRun":
        score = ClassificationScore(**values["score"])
        curve = [(int(step), float(accuracy)) for step, accuracy in values["curve"]]
        return cls(**{**values, "score": score, "curve": curve})


def classification_markdown(runs: Iterable[ClassifiedRun]) -> str:
    """A heading and a table per task, a line per run."""
    parts = []
    for group in _by_task(runs).values():
        table = markdown_table(HEADER, _rows(group), numbers=range(1, len(HEADER)))
        parts.append(f"{_caption(group)}\n\n{table}\n")
    return "\n".join(parts)


def classification_screen(runs: Iterable[ClassifiedRun]) -> list[Table]:
    """The same tables for a terminal."""
    tables = []
    for group in _by_task(runs).values():
        table = Table(*HEADER, title=_caption(group), pad_edge=False)  # fits into 80 columns
        for row in _rows(group):
            table.add_row(*row)
        tables.append(table)
    return tables


def plot_classification(runs: Iterable[ClassifiedRun], path: str | os.PathLike[str]) -> Path:
    """Accuracy while training into a PNG: a panel per task, a line per run.

    The star is the test after the training; the dotted line always gives the commonest answer.

    Raises:
        ValueError: no runs.
    """
    from matplotlib.figure import Figure

    tasks = _by_task(runs)
    if not tasks:
        raise ValueError("runs must hold at least one run")
    wide = min(len(tasks), 3)
    tall = -(-len(tasks) // wide)
    figure = Figure(figsize=(4.6 * wide, 3.6 * tall), layout="constrained")
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    for panel, (task, group) in zip(panels, tasks.items(), strict=False):
        for i, run in enumerate(group):
            style: dict[str, Any] = {"color": f"C{i}"}
            panel.plot([s for s, _ in run.curve], [a for _, a in run.curve], marker=".", **style)
            style["label"] = f"{run.model}, seed {run.seed}"
            panel.plot(run.steps, run.score.accuracy, "*", markersize=10, **style)
        panel.axhline(group[0].score.majority, linestyle=":", linewidth=1, color="grey")
        panel.set(xlabel="step", ylabel="accuracy", title=task, ylim=(0, 1.02))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    for panel in panels[len(tasks) :]:
        panel.remove()
    return write_png(figure, path)


def _by_task(runs: Iterable[ClassifiedRun]) -> dict[str, list[ClassifiedRun]]:
    found: dict[str, list[ClassifiedRun]] = {}
    for run in runs:
        found.setdefault(run.task, []).append(run)
    return found


def _rows(runs: Sequence[ClassifiedRun]) -> list[list[str]]:
    return [
        [
            run.model,
            f"{run.score.accuracy:.3f} ± {run.score.error:.3f}",
            f"{run.score.majority:.3f}",
            f"{run.score.loss:.3f}",
            f"{run.parameters:,}",
            str(run.steps),
            str(run.seed),
            f"{run.minutes:.1f}",
        ]
        for run in runs
    ]


def _caption(runs: Sequence[ClassifiedRun]) -> str:
    """What the table of one task shows."""
    score = runs[0].score
    return (
        f"{runs[0].task}: accuracy on the {score.sequences} sequences of its {score.split} split, "
        "with the standard error of so many"
    )
