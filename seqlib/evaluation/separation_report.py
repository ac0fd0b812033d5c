# SPDX-License-Identifier: Apache-2.0
"""Tables and curves of runs that separate sources."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from .curves import write_png
from .separation_score import SeparationScore
from .tables import markdown_table

# shown of what was measured, in this order, as the table calls it
SHOWN = {
    "si_sdri": "SI-SDRi",
    "sdri": "SDRi",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "pesq": "PESQ",
}


@dataclass(frozen=True)
class SeparatedRun:
    """One trained and tested separation model.

    Attributes:
        data, model: what tables and plots call them.
        minutes: how long it trained.
        skipped_steps: steps left out because their gradient was not finite.
        bad_files: files left out of training because they can't be used.
        scores: on the test splits; nothing was chosen by them.
        curve: (minutes, validation loss) while it trained.
        origin: data, settings, commit, versions: what else it was made from.
    """

    data: str
    model: str
    seed: int
    steps: int
    minutes: float
    parameters: int
    skipped_steps: int
    bad_files: int
    scores: Sequence[SeparationScore]
    curve: Sequence[tuple[float, float]]
    origin: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SeparatedRun":
        scores = [SeparationScore.from_dict(score) for score in values["scores"]]
        curve = [(float(minutes), float(loss)) for minutes, loss in values["curve"]]
        return cls(**{**values, "scores": scores, "curve": curve})


def separation_markdown(runs: Iterable[SeparatedRun]) -> str:
    """A heading and a table per data set, a line per run and test split."""
    parts = []
    for group in _by_data(runs).values():
        header, rows = separation_table(group)
        table = markdown_table(header, rows, numbers=range(2, len(header)))
        parts.append(f"{_caption(group)}\n\n{table}\n")
    return "\n".join(parts)


def separation_screen(runs: Iterable[SeparatedRun]) -> list[Table]:
    """The same tables for a terminal."""
    tables = []
    for group in _by_data(runs).values():
        header, rows = separation_table(group)
        table = Table(*header, title=_caption(group), pad_edge=False)
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def separation_table(runs: Sequence[SeparatedRun]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for runs on one data set."""
    measured = {name for run in runs for score in run.scores for name in score.means}
    shown = [name for name in SHOWN if name in measured]
    header = ["model", "test", *(SHOWN[name] for name in shown)]
    header += ["parameters", "steps", "seed", "minutes"]
    rows = []
    for run in runs:
        for score in run.scores:
            cells = [str(score.means[name]) if name in score.means else "" for name in shown]
            numbers = [f"{run.parameters:,}", str(run.steps), str(run.seed), f"{run.minutes:.1f}"]
            rows.append([run.model, score.split, *cells, *numbers])
    return header, rows


def plot_separation(runs: Iterable[SeparatedRun], path: str | os.PathLike[str]) -> Path:
    """Validation loss over minutes, and SI-SDRi with its intervals, into a PNG.

    Raises:
        ValueError: no runs.
    """
    from matplotlib.figure import Figure

    runs = list(runs)
    if not runs:
        raise ValueError("runs must hold at least one run")
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    curves, tests = figure.subplots(1, 2)
    splits = list(dict.fromkeys(score.split for run in runs for score in run.scores))
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        style: dict[str, Any] = {"color": f"C{i}", "label": f"{run.model}, seed {run.seed}"}
        curves.plot([m for m, _ in run.curve], [v for _, v in run.curve], marker=".", **style)
        means = [score.means["si_sdri"] for score in run.scores]
        tests.bar(
            [splits.index(score.split) + (i - (len(runs) - 1) / 2) * width for score in run.scores],
            [mean.value for mean in means],
            width * 0.9,
            yerr=[[m.value - m.low for m in means], [m.high - m.value for m in means]],
            capsize=3,
            **style,
        )
    curves.set(xlabel="minutes", ylabel="validation loss: -SI-SNR in dB")
    tests.set(ylabel="SI-SDRi in dB", xticks=range(len(splits)), xticklabels=splits)
    for panel in (curves, tests):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    return write_png(figure, path)


def _by_data(runs: Iterable[SeparatedRun]) -> dict[str, list[SeparatedRun]]:
    found: dict[str, list[SeparatedRun]] = {}
    for run in runs:
        found.setdefault(run.data, []).append(run)
    return found


def _caption(runs: Sequence[SeparatedRun]) -> str:
    """What the table of one data set shows."""
    counts = {score.split: score.mixtures for run in runs for score in run.scores}
    silent = sum(score.silent_references for score in runs[0].scores)
    told = ", ".join(f"{split} ({count} mixtures)" for split, count in counts.items())
    left_out = f"; {silent} silent references left out" if silent else ""
    return (
        f"{runs[0].data}: {told}; means in dB with 95 % intervals over mixtures, STOI, ESTOI and "
        f"PESQ on their own scales{left_out}"
    )
