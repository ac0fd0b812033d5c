# SPDX-License-Identifier: Apache-2.0
"""Labelled rows of a user's own data: JSON lines, arrays, folders of images, the Hub."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..hub import VALIDATION, load_splits
from ..text_files import UnusableFile, find_files, is_json_lines, read_records

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


class Row(NamedTuple):
    """What a label is about, one sequence or two, and where that was found."""

    inputs: list[Any]
    label: Any
    place: str


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where records hold what, and how it becomes a sequence.

    Attributes:
        inputs: one column; of tasks about pairs, two.
        label: class numbers, or names.
        max_length: cut sequences there.
        image_mode: "L" reads one number from a pixel, "RGB" three.

    Raises:
        ValueError: a value out of range.
    """

    inputs: Sequence[str] = ("text",)
    label: str = "label"
    max_length: int | None = None
    image_mode: str = "L"

    def __post_init__(self) -> None:
        if len(self.inputs) not in (1, 2):
            raise ValueError(f"input_columns must be one or two names, got {list(self.inputs)}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}")
        if self.image_mode not in ("L", "RGB"):
            raise ValueError(f"image_mode must be 'L' or 'RGB', got {self.image_mode!r}")

    def row(self, record: Mapping[str, Any], place: str) -> Row:
        """Raises ValueError for a record without these columns."""
        for column in (*self.inputs, self.label):
            if column not in record:
                raise ValueError(f"{place} has no {column!r}, it has {', '.join(record)}")
        return Row([record[column] for column in self.inputs], record[self.label], place)


def rows_of_files(argument: str, patterns: Sequence[str], columns: Columns) -> Iterator[Row]:
    """Every row of files, globs and folders.

    JSON lines hold a record each; an npz file holds an array per column, with a row per label; an
    image is a row whose label is the name of the folder that it is in.

    Raises:
        ValueError: a pattern without a match, or a file that can't be used.
    """
    files, _ = find_files(argument, patterns)
    for path in files:
        if path.suffix == ".npz":
            yield from _rows_of_arrays(path, columns)
        elif path.suffix.lower() in IMAGES:
            yield Row([path], path.parent.name, str(path))
        elif is_json_lines(path):
            for number, record in read_records(path):
                yield columns.row(record, f"{path} line {number}")
        else:
            raise UnusableFile(path, f"is none of .jsonl, .npz and {', '.join(IMAGES)}")


def rows_of_hub(
    name: str, config: str | None, columns: Columns
) -> tuple[dict[str, Iterator[Row]], Any]:
    """Rows by split of a data set of the Hub, or of a folder that `datasets` loads; and its tables.

    Raises:
        ImportError: the package `datasets` is missing.
        ValueError: the data set can't be loaded or has no train split.
    """
    loaded = load_splits(name, config)
    validation = next((split for split in VALIDATION if split in loaded), "validation")
    wanted = {"train": "train", "validation": validation, "test": "test"}

    def rows(split: str) -> Iterator[Row]:
        for i, record in enumerate(loaded[split]):
            yield columns.row(record, f"{name} {split} row {i}")

    return {split: rows(theirs) for split, theirs in wanted.items() if theirs in loaded}, loaded


def _rows_of_arrays(path: Path, columns: Columns) -> Iterator[Row]:
    with np.load(path) as found:
        arrays = dict(found)
    inputs, labels, _ = columns.row(arrays, str(path))
    if {len(array) for array in inputs} != {len(labels)}:
        raise UnusableFile(path, f"has {len(labels)} labels for {[len(a) for a in inputs]} rows")
    for i, label in enumerate(labels.tolist()):
        yield Row([array[i] for array in inputs], label, f"{path} row {i}")
