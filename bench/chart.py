# SPDX-License-Identifier: Apache-2.0
"""The picture: each contender's time relative to the best peer's."""

from collections.abc import Sequence
from pathlib import Path

from .records import Row
from .tables import best_peer_s, by_workload

MODES = ("forward", "both")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of time / time of the best peer, one panel per op and mode, on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ops = list(dict.fromkeys(row.op for row in rows))
    panels = [(op, mode) for op in ops for mode in MODES]
    figure = Figure(figsize=(16, 4.5 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for panel, (op, mode) in zip(axes, panels, strict=True):
        _panel(panel, [r for r in rows if r.op == op and r.mode == mode], f"{op}, {mode}")
    figure.savefig(path, dpi=100)


def _panel(panel, rows: Sequence[Row], name: str) -> None:
    groups = {}
    for group in by_workload(rows).values():
        best = best_peer_s(group, group[0].mode)
        if best is not None:
            groups[_label(group[0])] = {
                r.contender: r.headline_s / best for r in group if r.headline_s
            }
    contenders = list(dict.fromkeys(c for ratios in groups.values() for c in ratios))
    width = 0.85 / max(1, len(contenders))
    for i, contender in enumerate(contenders):
        spots = [x + i * width for x, ratios in enumerate(groups.values()) if contender in ratios]
        ratios = [ratios[contender] for ratios in groups.values() if contender in ratios]
        ours = any(r.ours for r in rows if r.contender == contender)
        panel.bar(
            spots, [r - 1 for r in ratios], width, bottom=1, label=contender,
            edgecolor="black" if ours else "none",
        )  # fmt: skip
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set_yscale("log")
    panel.set_title(name)
    panel.set_ylabel("time / time of the best peer")
    panel.set_xticks([x + 0.4 for x in range(len(groups))], list(groups), fontsize=7)
    if contenders:
        panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _label(row: Row) -> str:
    sizes = ",".join(str(size) for size in row.shape.values())
    threads = f"{row.threads} thr" if row.device_kind == "cpu" else row.dtype
    return f"{row.case}\n{sizes}\n{threads}"
