# SPDX-License-Identifier: Apache-2.0
"""ListOps: nested operations on lists of digits, as the Long Range Arena generates them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

OPERATION_PROBABILITY = 0.25
PADDING, UNKNOWN, END, ZERO, FIRST_OPERATION, CLOSE = 0, 1, 2, 3, 13, 17


def _median(values: list[int]) -> int:
    """The middle value; of an even number of them the mean of the two, rounded down."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


OPERATIONS: Mapping[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": _median,
    "[SM": lambda values: sum(values) % 10,
}
TOKENS = ("<pad>", "<unk>", "<eos>", *"0123456789", *OPERATIONS, "]")


class _TooLong(Exception):
    pass


@dataclass(frozen=True, kw_only=True)
class ListOps:
    """Which expressions are drawn; the defaults are those of the Long Range Arena.

    A tree grows from depth 1: above `max_depth` a node is an operation with probability 1/4 and
    a digit else, at `max_depth` a digit; an operation has 2 to `max_args` children. Trees are
    kept whose tokens (operations, digits, closing brackets) are more than `longer_than` and
    fewer than `shorter_than`.

    Source: arXiv 2011.04006, 2.1, and the generator published with it.

    Raises:
        ValueError: no tree can have such a length.
    """

    max_depth: int = 10
    max_args: int = 10
    longer_than: int = 500
    shorter_than: int = 2000

    def __post_init__(self) -> None:
        if self.max_depth < 2 or self.max_args < 2:
            raise ValueError(
                f"max_depth and max_args must be at least 2, got {self.max_depth} and "
                f"{self.max_args}"
            )
        if not 4 <= self.longer_than + 1 < self.shorter_than:
            raise ValueError(
                "longer_than must be at least 3 and shorter_than greater by two or more, got "
                f"{self.longer_than} and {self.shorter_than}"
            )

    @property
    def length(self) -> int:
        """The longest sequence, its end token counted."""
        return self.shorter_than

    def example(self, random: np.random.Generator) -> tuple[np.ndarray, int]:
        """Token ids uint8 [T], the last one END, and the value of the expression, 0 to 9."""
        uniform = _uniforms(random)
        while True:
            tokens: list[int] = []
            try:
                value = self._grow(tokens, uniform, 1)
            except _TooLong:
                continue
            if len(tokens) > self.longer_than:
                return np.asarray([*tokens, END], np.uint8), value

    def _grow(self, tokens: list[int], uniform: Iterator[float], depth: int) -> int:
        """Write one node and all below it behind `tokens`; returns its value."""
        if len(tokens) + 1 >= self.shorter_than:  # the node is one token at least
            raise _TooLong
        if depth == self.max_depth or next(uniform) > OPERATION_PROBABILITY:
            value = int(10 * next(uniform))
            tokens.append(ZERO + value)
            return value
        operation = int(len(OPERATIONS) * next(uniform))
        children = 2 + int((self.max_args - 1) * next(uniform))
        tokens.append(FIRST_OPERATION + operation)
        values = [self._grow(tokens, uniform, depth + 1) for _ in range(children)]
        tokens.append(CLOSE)
        if len(tokens) >= self.shorter_than:
            raise _TooLong
        return list(OPERATIONS.values())[operation](values)


def _uniforms(random: np.random.Generator) -> Iterator[float]:
    """Numbers in [0, 1) one by one; drawn in blocks, which is ten times faster."""
    while True:
        yield from random.random(1024).tolist()


def text(tokens: np.ndarray) -> str:
    """An expression as it is written, such as `[MAX 4 [MIN 2 3 ] ] <eos>`."""
    return " ".join(TOKENS[token] for token in tokens)
