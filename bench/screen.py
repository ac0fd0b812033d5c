# SPDX-License-Identifier: Apache-2.0
"""Tables on the screen."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from .launch_rows import text
from .records import Row
from .tables import COLUMNS, by_workload, cells, limits, seconds, title
from .tune import Search

ON_SCREEN = 5  # columns; the others are for the report


def show(rows: Sequence[Row], console: Console) -> None:
    """One table per workload; ours in bold, what failed its check in red."""
    for group in by_workload(rows).values():
        table = Table(title=title(group[0]), box=box.SIMPLE, title_justify="left")
        for i, name in enumerate(COLUMNS[:ON_SCREEN]):
            table.add_column(name, justify="right" if i else "left")
        for row, line in cells(group):
            style = "red" if row.status != "ok" else "bold" if row.ours else None
            table.add_row(*line[:ON_SCREEN], style=style)
        console.print(table)
        console.print(limits(group[0]), style="dim")


def show_search(search: Search, console: Console) -> None:
    """The candidates, the fastest first, and the row to paste."""
    group = search.group
    names = "; ".join(str(workload) for workload in group.workloads)
    table = Table(title=f"{group.op}: {names}", box=box.SIMPLE, title_justify="left")
    for name in ("change", "forward", "both", "speed", "worst error"):
        table.add_column(name, justify="left" if name == "change" else "right")
    for tried in sorted(search.tried, key=lambda tried: (not tried.right, -tried.speedup)):
        line = tried.line
        if not tried.right:
            table.add_row(line["change"], f"{line['status']}: {line['message']}", style="red")
            continue
        times = [
            " ".join(seconds(timed["times"][mode]["median"]) for timed in line["timed"])
            for mode in ("forward", "both")
        ]
        worst = max(error for found in line["errors"].values() for error in found.values())
        table.add_row(line["change"], *times, f"{tried.speedup:.3f}x", f"{worst:.0e}")
    console.print(table)
    console.print(search.note, markup=False)
    if search.winner is not None:
        console.print(f"in seqlib_kernels/{group.op}/launch.py, in place of the row", style="dim")
        print(f"{text(group.stored)},")
        console.print("paste", style="dim")
        print(f"{text(search.winner.row)},")
        if group.stored.arch != group.row.arch:
            console.print(
                f"{group.row.arch} had no rows: keep the old row, and give {group.row.arch} rows "
                "for every element size, or those it has will serve all"
            )
