# SPDX-License-Identifier: Apache-2.0
"""Arithmetic modulo 5 with nested brackets, such as ((2 - (-3)) + 1) = 1."""

from typing import ClassVar

import numpy as np

from .task import Example, Task, answered_at_the_end

MODULUS = 5
PLUS, MINUS, TIMES, OPEN, CLOSE, EQUALS, PAD = 5, 6, 7, 8, 9, 10, 11  # digits are 0 .. 4


class BracketedArithmetic(Task):
    """A random nested expression, then '=' and the answer.

    An expression of length 1 is a digit d, of 2 '-d', of 3 '(d)', of 4 '(-d)', and a longer one
    is '(' left sign right ')' with the length of `left` uniform. Tokens: 0 to 4 the digits,
    5 '+', 6 '-', 7 '*', 8 '(', 9 ')', 10 '=', 11 padding. A length counts '=' and the answer.

    Args:
        multiplication: let signs be '*' too.

    Source: arXiv 2411.12537, E.1.
    """

    name: ClassVar = "bracketed_arithmetic"
    shortest: ClassVar = 3
    answer_tokens: ClassVar = 1
    vocab_size = 12
    num_classes = 12
    chance = 1 / MODULUS
    pad_token = PAD

    def __init__(self, multiplication: bool = False):
        self.signs = (PLUS, MINUS, TIMES) if multiplication else (PLUS, MINUS)

    @property
    def identity(self) -> str:
        return f"{self.name} {self.signs}"

    def example(self, random: np.random.Generator, length: int) -> Example:
        self.check_length(length)
        tokens, value = self._expression(random, length - 2)
        inputs = np.asarray([*tokens, EQUALS], np.int64)
        return answered_at_the_end(inputs, value % MODULUS)

    def _expression(self, random: np.random.Generator, length: int) -> tuple[list[int], int]:
        if length <= 2:
            digit = int(random.integers(MODULUS))
            return ([digit], digit) if length == 1 else ([MINUS, digit], -digit)
        if length <= 4:
            tokens, value = self._expression(random, length - 2)
            return [OPEN, *tokens, CLOSE], value
        split = int(random.integers(1, length - 3))
        left, x = self._expression(random, split)
        sign = self.signs[random.integers(len(self.signs))]
        right, y = self._expression(random, length - 3 - split)
        value = x * y if sign == TIMES else x + y if sign == PLUS else x - y
        return [OPEN, *left, sign, *right, CLOSE], value % MODULUS
