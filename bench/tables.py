# SPDX-License-Identifier: Apache-2.0
"""What a person reads of the rows: groups of comparable ones, and each contender's cells."""

from collections.abc import Sequence
from typing import Any

from .records import Row

COLUMNS = (
    "contender",
    "forward",
    "both",
    "of limit",
    "vs best peer",
    "first calls",
    "peak",
    "worst error",
)


def by_workload(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows of the same work on the same machine, in their order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.workload, []).append(row)
    return groups


def by_contender(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """The rows of one workload as contender -> mode -> row."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.contender, {})[row.mode] = row
    return found


def best_peer_s(rows: Sequence[Row], mode: str) -> float | None:
    """The time of the fastest peer that is right; None if there is none."""
    times = [r.headline_s for r in rows if r.mode == mode and not r.ours and r.headline_s]
    return min(times, default=None)


def title(row: Row) -> str:
    """The work and the threads."""
    sizes = " ".join(f"{name}={size}" for name, size in row.shape.items())
    threads = f", {row.threads} thread{'s' * (row.threads > 1)}" if row.device_kind == "cpu" else ""
    return f"{row.op}, {row.case}: {sizes}, {row.dtype}{threads}"


def limits(row: Row) -> str:
    """The measured ceilings and what they leave as the least time of the row's mode."""
    return (
        f"copy {row.copy_bytes_per_s / 1e9:.1f} GB/s, matrix product "
        f"{row.gemm_flops_per_s / 1e9:.0f} GFLOP/s, load {row.load:g}, clock: {row.clock}"
    )


def cells(group: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    """One line of COLUMNS per contender, with one of its rows; fastest first, red rows last."""
    lines = []
    for modes in by_contender(group).values():
        any_row = next(iter(modes.values()))
        if any_row.status != "ok":
            text = f"{any_row.status}: {any_row.message}"
            lines.append((any_row, [any_row.contender, text, *[""] * (len(COLUMNS) - 2)]))
            continue
        forward, both = modes["forward"], modes["both"]
        ratios = [_ratio(r, best_peer_s(group, r.mode)) for r in (forward, both)]
        first = [seconds(r.first_call_s) for r in (forward, both)]
        errors = [error for error in any_row.errors.values() if error is not None]
        line = [
            any_row.contender,
            seconds(forward.headline_s),
            seconds(both.headline_s),
            " / ".join(_percent(r.roofline) for r in (forward, both)) + " %",
            " / ".join(ratios),
            " + ".join(first),
            _size(both.peak_bytes),
            f"{max(errors):.0e}",
        ]
        lines.append((any_row, line))
    times = {r.contender: r.headline_s for r in group if r.mode == "both"}
    lines.sort(key=lambda pair: (pair[0].status != "ok", times.get(pair[0].contender) or 0))
    return lines


def seconds(value: float | None) -> str:
    """Three digits and a unit."""
    if value is None:
        return "-"
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _ratio(row: Row, best: float | None) -> str:
    """How many times as fast as the best peer."""
    if row.headline_s is None or best is None:
        return "-"
    ratio = best / row.headline_s
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def _size(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:.0f} MiB"
