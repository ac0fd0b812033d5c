# SPDX-License-Identifier: Apache-2.0
"""The word problem of a group: after every element, the product of all so far."""

from typing import ClassVar

import numpy as np

from seqlib.mixers.names import unknown_name

from . import groups
from .task import Example, Task

# which elements a word may hold, by how many points they move at most
SUBSETS = {"all": None, "swaps": 2, "three_points": 3}


class WordProblem(Task):
    """y_i = y_(i-1) o x_i, x_i applied first, asked for after every token.

    With `tokens_per_transition` = k each element is followed by k - 1 fillers (token `order`),
    which stand for the identity, and every answer is asked for k - 1 tokens later: that of an
    element after its last filler. The first k - 1 targets are 0.

    Args:
        group: one of `seqlib.data.state_tracking.groups.GROUPS`; Z2 is parity with an
            answer for every prefix.
        subset: "all" elements, or for permutations "swaps" (the identity and transpositions) or
            "three_points" (those that move at most three points).
        tokens_per_transition: k.

    Source: arXiv 2411.12537, 5.2.

    Raises:
        ValueError: an unknown group or subset, a subset that holds nothing but the identity or
            belongs to no group of permutations, or k < 1.
    """

    name: ClassVar = "word_problem"
    shortest: ClassVar = 1
    answer_tokens: ClassVar = 0

    def __init__(self, group: str = "S5", subset: str = "all", tokens_per_transition: int = 1):
        self.group = groups.group(group)
        if subset not in SUBSETS:
            raise unknown_name("subset", subset, SUBSETS)
        if tokens_per_transition < 1:
            raise ValueError(
                f"tokens_per_transition must be at least 1, got {tokens_per_transition}"
            )
        self.subset, self.tokens_per_transition = subset, tokens_per_transition
        self.elements = self._choose(SUBSETS[subset])
        order = self.group.order
        self.filler = order
        self.vocab_size = order + (tokens_per_transition > 1)
        self.num_classes = order
        self.chance = 1 / order

    @property
    def identity(self) -> str:
        return f"{self.name} {self.group.name} {self.subset} {self.tokens_per_transition}"

    def example(self, random: np.random.Generator, length: int) -> Example:
        self.check_length(length)
        k = self.tokens_per_transition
        word = random.choice(self.elements, size=-(-length // k))
        inputs = np.full((len(word), k), self.filler, np.int64)
        inputs[:, 0] = word
        products = np.repeat(self.prefix_products(word), k)
        targets = np.concatenate((np.zeros(k - 1, np.int64), products))
        return Example(inputs.ravel()[:length], targets[:length])

    def prefix_products(self, word: np.ndarray) -> np.ndarray:
        """[n] elements to the n products of their prefixes."""
        table, product = self.group.table, 0
        found = np.empty(len(word), np.int64)
        for i, element in enumerate(word):
            found[i] = product = table[product, element]
        return found

    def _choose(self, most_moved: int | None) -> np.ndarray:
        elements = np.arange(self.group.order)
        if most_moved is None:
            return elements
        if self.group.moved is None:
            raise ValueError(
                f"subset must be 'all' for {self.group.name}, which holds no permutations, "
                f"got {self.subset!r}"
            )
        elements = elements[self.group.moved <= most_moved]
        if len(elements) == 1:
            raise ValueError(
                f"subset {self.subset!r} of {self.group.name} holds nothing but the identity"
            )
        return elements
