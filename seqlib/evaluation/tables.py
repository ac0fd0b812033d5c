# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown that also read well as plain text."""

from collections.abc import Collection, Sequence
from statistics import median


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()
) -> str:
    """A table with columns of equal width, those in `numbers` flush right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            f"{cell:>{width}}" if i in numbers else f"{cell:{width}}"
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * (w - 1) + (":" if i in numbers else "-") for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def over_seeds(values: Sequence[float]) -> str:
    """One value of several runs: the median, with the lowest and highest where they differ."""
    low, middle, high = (f"{value:.3f}" for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
