# SPDX-License-Identifier: Apache-2.0
"""A user's own rows as sequences: bytes of texts, pixels of images, arrays as they are."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..splits import hash_fraction
from .sequences import Form, SequenceData, Sequences, described
from .user_rows import Columns, Row

VERSION = "sequences-v1"
VALIDATION_SHARE = 0.1
BYTES = 256

# one row: its one or two sequences, its label, where it was found
Labelled = tuple[list[np.ndarray], Any, str]


def user_sequences(
    name: str, rows: Mapping[str, Iterable[Row]], columns: Columns, **about: Any
) -> SequenceData:
    """Rows by split as a data set.

    A text becomes its UTF-8 bytes (tokens 1 to 256), an image its pixels row by row, an array of
    integers [T] tokens (zeros at its end are padding), any other array T steps of numbers. Bytes
    of pixels are read as [-1, 1]. Without a validation split a tenth of the training rows is held
    out, by the hash of what they hold, so that copies stay together. Labels are numbered in their
    order.

    Raises:
        ValueError: a row that is neither text, image nor array, an empty sequence, rows of two
            kinds, a label that no training row has, or too few rows to hold any out.
    """
    found = {split: [_labelled(row, columns) for row in part] for split, part in rows.items()}
    if "validation" not in found:
        found["validation"], found["train"] = _held_out(found["train"])
    classes = sorted({label for _, label, _ in found["train"]}, key=lambda x: (str(type(x)), x))
    form = _form(found, len(classes), len(columns.inputs) == 2)
    splits = {split: _joined(form, part, classes) for split, part in found.items()}
    return described(form, splits, name, classes=classes, **about)


def _labelled(row: Row, columns: Columns) -> Labelled:
    if not isinstance(row.label, int | str):
        raise ValueError(f"{row.place} must have a number or a name as label, got {row.label!r}")
    steps = [_steps(value, row.place, columns.image_mode) for value in row.inputs]
    if min(map(len, steps)) == 0:
        raise ValueError(f"{row.place} holds an empty sequence")
    return [part[: columns.max_length] for part in steps], row.label, row.place


def _steps(value: Any, place: str, image_mode: str) -> np.ndarray:
    """[T] tokens or [T, F] numbers of a text, an image (or its file), or an array."""
    if isinstance(value, str):
        return np.frombuffer(value.encode(), np.uint8).astype(np.uint16) + 1
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and np.issubdtype(value.dtype, np.integer):
            return np.trim_zeros(value, "b").astype(np.int64)
        return value.reshape(len(value), -1)
    from PIL import Image

    try:
        image = Image.open(value) if isinstance(value, Path) else value
        if isinstance(image, Image.Image):
            return np.asarray(image.convert(image_mode)).reshape(image.width * image.height, -1)
    except OSError as error:
        raise ValueError(f"{place} can't be read as an image: {error}") from error
    raise ValueError(f"{place} must hold a text, an image or an array, got {type(value).__name__}")


def _held_out(rows: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """A tenth of the rows, and the rest."""

    def held(row: Labelled) -> bool:
        content = hashlib.sha256(b"|".join(part.tobytes() for part in row[0])).hexdigest()
        return hash_fraction(VERSION, content) < VALIDATION_SHARE

    parts = [row for row in rows if held(row)], [row for row in rows if not held(row)]
    if not all(parts):
        raise ValueError(
            f"{len(rows)} training rows are too few to hold a tenth of them out: name a "
            "validation split"
        )
    return parts


def _form(rows: Mapping[str, list[Labelled]], num_classes: int, pairs: bool) -> Form:
    steps = [(s, place) for part in rows.values() for found, _, place in part for s in found]
    first = steps[0][0]
    for other, place in steps:
        if other.shape[1:] != first.shape[1:]:
            kinds = ["numbers" if s.ndim > 1 else "tokens" for s in (first, other)]
            raise ValueError(
                f"{place} has steps of {list(other.shape[1:])} {kinds[1]}, where others have "
                f"{list(first.shape[1:])} {kinds[0]}"
            )
    shape = {"num_classes": num_classes, "length": max(len(s) for s, _ in steps), "pairs": pairs}
    if first.dtype == np.uint16:
        return Form(**shape, vocab_size=1 + BYTES)
    if first.ndim == 1:  # the user's own tokens
        return Form(**shape, vocab_size=1 + max(int(s.max()) for s, _ in steps))
    if first.dtype == np.uint8:
        return Form(**shape, features=first.shape[1], scale=2 / 255, shift=-1.0)
    return Form(**shape, features=first.shape[1])


def _joined(form: Form, rows: list[Labelled], classes: list[Any]) -> Sequences:
    numbers = {label: i for i, label in enumerate(classes)}
    for _, label, place in rows:
        if label not in numbers:
            raise ValueError(f"{place} has the label {label!r}, which no training row has")
    steps = [part for found, _, _ in rows for part in found]
    labels = np.asarray([numbers[label] for _, label, _ in rows])
    return Sequences(form, np.concatenate(steps), np.cumsum([0, *map(len, steps)]), labels)
