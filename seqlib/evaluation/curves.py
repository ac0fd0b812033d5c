# SPDX-License-Identifier: Apache-2.0
"""Loss curves from the metrics a training run logged."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"loss": "training loss", "eval_loss": "validation loss"}


def plot_losses(
    log_history: Sequence[Mapping[str, float]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    unit: str = "nats per token",
    levels: Mapping[str, float] | None = None,
) -> Path:
    """Draw `loss` and `eval_loss` against `step` into a PNG.

    Args:
        log_history: `trainer.state.log_history`, or the same read from a metrics file.
        path: the PNG, replaced whole.
        title: a heading.
        unit: of the losses.
        levels: horizontal lines by name, in that unit, such as a baseline's.

    Raises:
        ValueError: no record holds a step and a loss.
    """
    from matplotlib.figure import Figure

    curves = {
        label: [(r["step"], r[key]) for r in log_history if key in r and "step" in r]
        for key, label in LABELS.items()
    }
    curves = {label: points for label, points in curves.items() if points}
    if not curves:
        raise ValueError(f"log_history must hold records with step and {' or '.join(LABELS)}")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else "")
    for label, value in (levels or {}).items():
        axes.axhline(value, linestyle="--", linewidth=1, color="grey")
        axes.annotate(
            label, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    axes.set(xlabel="step", ylabel=unit, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return write_png(figure, path)


def write_png(figure: "Figure", path: str | os.PathLike[str]) -> Path:
    """Draw `figure` into a PNG, replaced whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    FigureCanvasAgg(figure).print_png(scratch)
    scratch.replace(target)
    return target
