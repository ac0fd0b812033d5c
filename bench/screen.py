# SPDX-License-Identifier: Apache-2.0
"""Tables on the screen."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from .records import Row
from .tables import COLUMNS, by_workload, cells, limits, title

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
