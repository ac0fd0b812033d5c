# SPDX-License-Identifier: Apache-2.0
"""Shuffled prefixes of a split: the same text for a model and for what it is compared with."""

import random
from collections.abc import Iterable, Sequence

from .corpus import SEPARATOR


def shuffled_prefix(
    documents: Sequence[str], max_bytes: int | None = None, *, seed: int = 0
) -> list[str]:
    """Documents in an order drawn from `seed`, up to `max_bytes` of UTF-8, separators included.

    The last document is cut to fit. None takes everything. Corpora are sorted by source, so a
    prefix without shuffling would hold one source only.

    Raises:
        ValueError: `max_bytes` leaves no room for text.
    """
    if max_bytes is not None and max_bytes < 2:
        raise ValueError(f"max_bytes must be at least 2, got {max_bytes}")
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    taken, room = [], max_bytes
    for i in order:
        text = documents[i]
        if room is not None:
            data = text.encode("utf-8", "replace")[: max(room - len(SEPARATOR), 0)]
            text = data.decode("utf-8", "ignore")
            room -= len(data) + len(SEPARATOR)
        if text:
            taken.append(text)
        if room is not None and room <= len(SEPARATOR):
            break
    return taken


def joined_bytes(documents: Iterable[str]) -> bytes:
    """Documents as UTF-8, each followed by one NUL byte, as corpora store them."""
    return b"".join(d.encode("utf-8", "replace") + SEPARATOR for d in documents)
