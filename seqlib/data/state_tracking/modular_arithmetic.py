# SPDX-License-Identifier: Apache-2.0
"""Sums and products modulo 5 without brackets, such as 2 - 3 * 4 = 0."""

from typing import ClassVar

import numpy as np

from .task import Example, Task, answered_at_the_end

MODULUS = 5
PLUS, MINUS, TIMES, EQUALS, ZERO = 1, 2, 3, 4, 5  # digits are ZERO .. ZERO + 4


class ModularArithmetic(Task):
    """Digits joined by +, - and *, a product before a sum, then '=' and the answer.

    Tokens: 0 padding, 1 '+', 2 '-', 3 '*', 4 '=', 5 to 9 the digits 0 to 4. A length counts '='
    and the answer and is odd: digits stand at even places. Source: arXiv 2411.12537, E.1.
    """

    name: ClassVar = "modular_arithmetic"
    shortest: ClassVar = 3
    answer_tokens: ClassVar = 1
    vocab_size = 10
    num_classes = 10
    chance = 1 / MODULUS

    def possible(self, length: int) -> bool:
        return length >= self.shortest and length % 2 == 1

    def example(self, random: np.random.Generator, length: int) -> Example:
        self.check_length(length)
        count = (length - 1) // 2
        digits = random.integers(MODULUS, size=count)
        signs = random.integers(PLUS, TIMES + 1, size=count - 1)
        inputs = np.empty(length - 1, np.int64)
        inputs[0::2] = digits + ZERO
        inputs[1:-1:2] = signs
        inputs[-1] = EQUALS
        return answered_at_the_end(inputs, value(digits.tolist(), signs.tolist()) + ZERO)

    def _impossible(self, length: int) -> ValueError:
        return ValueError(
            f"the length of an example of {self.name} must be odd (digits and signs alternate, "
            f"then '=' and the answer) and at least {self.shortest}, got {length}"
        )


def value(digits: list[int], signs: list[int]) -> int:
    """The expression modulo 5, products first."""
    total, term = 0, digits[0]
    for sign, digit in zip(signs, digits[1:], strict=True):
        if sign == TIMES:
            term = term * digit % MODULUS
        else:
            total, term = total + term, digit if sign == PLUS else -digit
    return (total + term) % MODULUS
