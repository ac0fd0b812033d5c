# SPDX-License-Identifier: Apache-2.0
"""Parity: is the number of ones odd? Answered once, after the last bit."""

from typing import ClassVar

import numpy as np

from .task import Example, Task, answered_at_the_end


class Parity(Task):
    """Bits as tokens 1 and 2 (0 is padding); the answer is the token of their sum modulo 2.

    A length counts the answer, which follows the n - 1 bits. Source: arXiv 2411.12537, E.1.
    """

    name: ClassVar = "parity"
    shortest: ClassVar = 2
    answer_tokens: ClassVar = 1
    vocab_size = 3
    num_classes = 3
    chance = 1 / 2

    def example(self, random: np.random.Generator, length: int) -> Example:
        self.check_length(length)
        bits = random.integers(2, size=length - 1)
        return answered_at_the_end(bits + 1, int(bits.sum()) % 2 + 1)
