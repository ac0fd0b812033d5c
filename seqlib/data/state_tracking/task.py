# SPDX-License-Identifier: Apache-2.0
"""What a state-tracking task says about itself, and which lengths its examples can have."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

UNASKED = -100  # the target where nothing is asked; losses of transformers leave it out


class Example(NamedTuple):
    """One sequence as a model sees it: what it reads and what is asked after each token.

    Attributes:
        inputs: int64 [T], token ids.
        targets: int64 [T], the class asked for at each position, -100 where none is.
    """

    inputs: np.ndarray
    targets: np.ndarray


class Task(ABC):
    """A language whose answers need a state.

    Attributes:
        name: what settings and errors call it.
        shortest: the least length of an example.
        answer_tokens: how many tokens of a length are the answer, which is not read: 1 where one
            answer ends the sequence, 0 where one is asked for after every token.
        vocab_size: number of token ids that are read.
        num_classes: number of answers a model chooses from.
        chance: the accuracy of a guess.
        pad_token: what fills shorter rows of a batch. It stands after the last answer, where a
            causal model can't be moved by it.
    """

    name: ClassVar[str]
    shortest: ClassVar[int]
    answer_tokens: ClassVar[int]
    vocab_size: int
    num_classes: int
    chance: float
    pad_token: int = 0

    @property
    def identity(self) -> str:
        """The task and its options as one text, which seeds its random streams."""
        return self.name

    @abstractmethod
    def example(self, random: np.random.Generator, length: int) -> Example:
        """One example of `length` tokens, its answer counted.

        Raises:
            ValueError: a length that no example has.
        """

    def possible(self, length: int) -> bool:
        """Whether there are examples of this length."""
        return length >= self.shortest

    def lengths_between(self, lengths: Sequence[int], context: int) -> list[int]:
        """The possible ones from lengths[0] to lengths[1], both included.

        Raises:
            ValueError: no two numbers in order, a shortest length below the task's own, a longest
                one beyond the context, or none between them that is possible.
        """
        if len(lengths) != 2 or lengths[0] > lengths[1]:
            raise ValueError(f"lengths must be two numbers, shortest first, got {list(lengths)}")
        low, high = lengths
        if low < self.shortest:
            raise ValueError(
                f"lengths of {self.name} start at {self.shortest}, got {list(lengths)}"
            )
        if high > context:
            raise ValueError(
                f"lengths must not exceed the context of {context} tokens, got {list(lengths)}"
            )
        found = [n for n in range(low, high + 1) if self.possible(n)]
        if not found:
            raise self._impossible(low)
        return found

    def check_length(self, length: int) -> None:
        if not self.possible(length):
            raise self._impossible(length)

    def _impossible(self, length: int) -> ValueError:
        return ValueError(
            f"the length of an example of {self.name} must be at least {self.shortest}, "
            f"got {length}"
        )


def answered_at_the_end(inputs: np.ndarray, answer: int) -> Example:
    """An example whose only target is `answer`, asked for at the last token read."""
    targets = np.full(len(inputs), UNASKED, np.int64)
    targets[-1] = answer
    return Example(inputs, targets)
