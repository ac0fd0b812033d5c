# SPDX-License-Identifier: Apache-2.0
"""Accuracy against length: a panel per state-tracking task, a line per model."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .curves import write_png
from .state_tracking import TrackingScore, scaled_accuracy
from .tracking_report import RANGES, TrackedRun, by_model, by_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 12  # of lengths, where every length has few sequences of its own


def plot_tracking(runs: Iterable[TrackedRun], path: str | os.PathLike[str]) -> Path:
    """Accuracy against length into a PNG: a panel per task, a line per model.

    Lines are medians over seeds, their bands reach from the lowest to the highest; solid with
    negative eigenvalues, dashed without. The dotted line is the longest trained length.

    Raises:
        ValueError: no runs.
    """
    from matplotlib.figure import Figure

    tasks = by_task(runs)
    if not tasks:
        raise ValueError("runs must hold at least one run")
    models = list(dict.fromkeys(run.model for group in tasks.values() for run in group))
    wide = min(len(tasks), 3)
    tall = -(-len(tasks) // wide)
    figure = Figure(figsize=(4.6 * wide, 3.6 * tall), layout="constrained")
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    for panel, (task, group) in zip(panels, tasks.items(), strict=False):
        _draw(panel, task, group, models)
    for panel in panels[len(tasks) :]:
        panel.remove()
    return write_png(figure, path)


def _draw(panel: "Axes", task: str, runs: Sequence[TrackedRun], models: Sequence[str]) -> None:
    """One task; a model has the color of its place in `models`."""
    for (model, negative), group in by_model(runs).items():
        lengths, values = curves([run.score for run in group])
        style: dict[str, Any] = {"color": f"C{models.index(model)}"}
        panel.plot(
            lengths,
            np.nanmedian(values, 0),
            linestyle="-" if negative else "--",
            label=f"{model} {RANGES[negative]}",
            **style,
        )
        low, high = np.nanmin(values, 0), np.nanmax(values, 0)
        panel.fill_between(lengths, low, high, alpha=0.15, linewidth=0, **style)
    for length in {run.trained_length for run in runs}:
        panel.axvline(length, linestyle=":", linewidth=1, color="grey")
    prefixes = runs[0].score.sequence_accuracy is not None
    panel.set(
        xlabel="length",
        ylabel="sequence accuracy" if prefixes else "scaled accuracy",
        title=task,
        ylim=(-0.05, 1.05),
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)


def curves(scores: Sequence[TrackingScore]) -> tuple[np.ndarray, np.ndarray]:
    """What is reached at which length, by scores of one task whose lengths need not be the same.

    Returns:
        lengths: [L] all that any of them has; where one answer ends a sequence, the middles of
            at most BINS bins of them.
        values: [len(scores), L] sequence accuracy, or scaled accuracy where one answer ends a
            sequence; NaN where a score has no sequences.
    """
    first = scores[0]
    prefixes = first.sequence_accuracy is not None
    lengths = np.asarray(sorted({n for score in scores for n in score.lengths}))
    counts = np.zeros((len(scores), len(lengths)))
    right = np.zeros_like(counts)
    for row, score in enumerate(scores):
        at = np.searchsorted(lengths, score.lengths)
        counts[row, at] = score.sequences_by_length
        right[row, at] = score.sequence_accuracy if prefixes else score.accuracy_by_length
    bins = len(lengths) if prefixes else min(BINS, len(lengths))
    starts = np.arange(bins) * len(lengths) // bins

    def binned(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts, axis=-1)

    total = counts.sum(0)
    middles = binned(lengths * total) / binned(total)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there are no sequences
        accuracy = binned(right * counts) / binned(counts)
    return middles, accuracy if prefixes else scaled_accuracy(accuracy, first.chance)
