# SPDX-License-Identifier: Apache-2.0
"""The numbers to print beside every language model: compressors and byte n-grams."""

from collections.abc import Iterable
from dataclasses import dataclass

from .compression import xz_bits_per_byte
from .ngram import ngram_bits_per_byte
from .tables import markdown_table


@dataclass(frozen=True)
class Score:
    """One line of a comparison: what was scored, its bits per byte, and a remark."""

    name: str
    bits_per_byte: float
    note: str = ""


def baseline_scores(train: bytes, validation: bytes, max_order: int = 8) -> list[Score]:
    """xz, xz after the training text, and the best byte n-gram, about 15 s for 8 MB.

    Args:
        train: the bytes that the model saw, no more and no fewer.
        validation: the bytes that the model was scored on.
        max_order: the longest n-gram context to try.

    Raises:
        ValueError: a text without a byte.
    """
    orders = ngram_bits_per_byte(train, validation, max_order)
    best = min(range(len(orders)), key=orders.__getitem__)
    size = f"{len(train) / 1e6:.2f} MB"
    return [
        Score("xz -6", xz_bits_per_byte(validation), "validation text alone"),
        Score("xz -6 after training text", xz_bits_per_byte(validation, after=train), size),
        Score("best byte n-gram", orders[best], f"order {best} of 0 to {max_order}, {size}"),
    ]


def format_table(scores: Iterable[Score]) -> str:
    """A Markdown table of scores, best first."""
    best_first = sorted(scores, key=lambda s: s.bits_per_byte)
    rows = [(s.name, f"{s.bits_per_byte:.3f}", s.note) for s in best_first]
    return markdown_table(("", "bits per byte", ""), rows, numbers=(1,))
