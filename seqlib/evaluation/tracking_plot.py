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
    wide = min(len(tasks), 3)
    tall = -(-len(tasks) // wide)
    figure = Figure(figsize=(4.6 * wide, 3.6 * tall), layout="constrained")
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    for panel, (task, group) in zip(panels, tasks.items(), strict=False):
        _draw(panel, task, group)
    for panel in panels[len(tasks) :]:
        panel.remove()
    return write_png(figure, path)


def _draw(panel: "Axes", task: str, runs: Sequence[TrackedRun]) -> None:
    models = list(dict.fromkeys(run.model for run in runs))
    for (model, negative), group in by_model(runs).items():
        lengths, values = zip(*(curve(run.score) for run in group), strict=True)
        style: dict[str, Any] = {"color": f"C{models.index(model)}"}
        panel.plot(
            lengths[0],
            np.median(values, 0),
            linestyle="-" if negative else "--",
            label=f"{model} {RANGES[negative]}",
            **style,
        )
        panel.fill_between(
            lengths[0], np.min(values, 0), np.max(values, 0), alpha=0.15, linewidth=0, **style
        )
    panel.axvline(runs[0].trained_length, linestyle=":", linewidth=1, color="grey")
    prefixes = runs[0].score.sequence_accuracy is not None
    panel.set(
        xlabel="length",
        ylabel="sequence accuracy" if prefixes else "scaled accuracy",
        title=task,
        ylim=(-0.05, 1.05),
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)


def curve(score: TrackingScore) -> tuple[np.ndarray, np.ndarray]:
    """Lengths, and sequence accuracy there, or the scaled accuracy in bins of lengths."""
    lengths = np.asarray(score.lengths, float)
    if score.sequence_accuracy is not None:
        return lengths, np.asarray(score.sequence_accuracy)
    counts, values = np.asarray(score.sequences_by_length), np.asarray(score.accuracy_by_length)
    parts = np.array_split(np.arange(len(lengths)), min(BINS, len(lengths)))
    middles = np.asarray([np.average(lengths[p], weights=counts[p]) for p in parts])
    right = [float(np.average(values[p], weights=counts[p])) for p in parts]
    return middles, np.asarray([scaled_accuracy(r, score.chance) for r in right])
