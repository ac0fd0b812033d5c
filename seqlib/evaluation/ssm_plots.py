# SPDX-License-Identifier: Apache-2.0
"""Plots of what diagonal systems do to HiPPO: transfer functions, trade-offs, the delay line."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqlib.layers.ssm_init import frequencies, s4d

from .curves import write_png
from .ssm_deviation import Trade
from .ssm_systems import systems

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKED = 8  # highest spikes with a mark; the others are too near to each other


def plot_transfers(n: int, path: str | os.PathLike[str]) -> Path:
    """|G| of HiPPO and of the systems that stand for it, a panel each, and what they differ by.

    The readout is b / n, the input has norm 1. Triangles are where theory puts the spikes of
    S4D-LegS, the roots of 1 + phi; the dotted line is n^2 / pi, which the last of them comes near.
    """
    from matplotlib.figure import Figure

    exact, *others = systems(n)
    figure = Figure(figsize=(4.2 * len(others), 6), layout="constrained")
    panels = figure.subplots(2, len(others), sharex=True, sharey="row")
    spikes = s4d("legs", n)[0].imag[:MARKED]
    for system, (top, bottom) in zip(others, panels.T, strict=True):
        omega = np.union1d(system.omega, frequencies(s4d("legs", n)[0]))
        want, got = exact.transfer(omega), system.transfer(omega)
        top.loglog(omega, np.abs(want), color="grey", linewidth=2.5, alpha=0.5, label=exact.name)
        top.loglog(omega, np.abs(got), linewidth=1, label=system.name)
        gap = np.linalg.norm(system.states(omega) - exact.states(omega), axis=-1) / n
        bottom.loglog(omega, np.abs(got - want), linewidth=1, label="readout b / n")
        bottom.loglog(omega, gap, linewidth=1, label="worst readout")
        at = np.full(len(spikes), 0.97)
        for panel in (top, bottom):
            panel.plot(spikes, at, "kv", markersize=3, transform=panel.get_xaxis_transform())
            panel.axvline(n**2 / np.pi, linestyle=":", linewidth=1, color="black")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7, loc="lower left")
        top.set(title=f"{system.name}, n = {n}", ylim=(1e-9, 3))
        bottom.set(xlabel="ω", ylim=(1e-9, 3))
    panels[0, 0].set(ylabel="|G(iω)|")
    panels[1, 0].set(ylabel="distance from HiPPO")
    return write_png(figure, path)


def plot_trades(trades: Sequence[Trade], path: str | os.PathLike[str]) -> Path:
    """The condition of the eigenvectors against the size of E, and the deviation against it.

    A line per method and n; crosses are perturbations with an unstable eigenvalue.

    Raises:
        ValueError: no perturbations.
    """
    from matplotlib.figure import Figure

    if not trades:
        raise ValueError("trades must hold at least one perturbation")
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    methods = list(dict.fromkeys(trade.method for trade in trades))
    sizes = list(dict.fromkeys(trade.n for trade in trades))
    for method in methods:
        for n in sizes:
            group = [t for t in trades if t.method == method and t.n == n]
            style = {
                "color": f"C{methods.index(method)}",
                "linestyle": ("-", "--", ":")[sizes.index(n) % 3],
            }
            _trade_line(left, [(t.rel_norm, t.kappa, t.highest) for t in group], style)
            left.plot([], [], label=f"{method}, n = {n}", **style)
            known = [(t.kappa, t.worst, t.highest) for t in group if t.worst is not None]
            _trade_line(right, known, style)
    left.set(xlabel="‖E‖ / ‖A‖", ylabel="condition number κ(V)", xscale="log", yscale="log")
    right.set(xlabel="condition number κ(V)", ylabel="worst deviation", xscale="log", yscale="log")
    left.legend(fontsize=7)
    right.set(xlim=(1, 100))
    for panel in (left, right):
        panel.grid(alpha=0.3)
    return write_png(figure, path)


def _trade_line(panel: "Axes", points: Sequence[tuple], style: dict) -> None:
    """x, y and a mark that tells stable from unstable ones."""
    if not points:
        return
    x, y, highest = np.array(sorted(points)).T
    panel.plot(x, y, linewidth=1, **style)
    for stable, marker in ((highest < 0, "."), (highest >= 0, "x")):
        panel.plot(x[stable], y[stable], marker, color=style["color"])


def plot_by_amplitude(
    curves: Mapping[str, Sequence[Sequence[float]]],
    amplitudes: Sequence[float],
    path: str | os.PathLike[str],
    *,
    ylabel: str,
    logarithmic: bool = False,
) -> Path:
    """A line per system against the amplitude of the noise: medians of its seeds, in their range.

    Raises:
        ValueError: no curves.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("curves must hold at least one")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, seeds in curves.items():
        y = np.array(seeds)
        (line,) = axes.plot(amplitudes, np.median(y, 0), marker=".", linewidth=1, label=name)
        color = line.get_color()
        axes.fill_between(amplitudes, y.min(0), y.max(0), alpha=0.15, linewidth=0, color=color)
    axes.set(xlabel="amplitude of the noise", ylabel=ylabel)
    # amplitudes grow by factors, and one of them is 0
    axes.set_xscale("symlog", linthresh=min(a for a in (*amplitudes, 1.0) if a > 0))
    if logarithmic:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return write_png(figure, path)
