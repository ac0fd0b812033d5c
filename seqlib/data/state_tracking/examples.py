# SPDX-License-Identifier: Apache-2.0
"""Examples of a task by number, and batches of them."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from .task import UNASKED, Example, Task


def stream(seed: int, task: str, split: str, index: int) -> np.random.Generator:
    """A random stream of its own for each example, whatever was drawn before it.

    A counter-based generator: the key comes from seed, task and split, and every index has 2**192
    values of the counter to itself.
    """
    digest = hashlib.sha256(f"{seed}|{task}|{split}".encode()).digest()
    key = np.frombuffer(digest[:16], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))


class TaskExamples(Dataset[dict[str, Tensor]]):
    """So many examples of a task, each made anew when it is asked for.

    Items are {"input_ids", "labels"}, int64 [T]: what is read, and the class asked for after each
    token or -100. The same seed, split and index give the same example, in any process. Sets of
    two splits are drawn from streams that share nothing; where a length has few sequences, such
    as parity's 2^(n - 1), some of one are in the other by chance.

    Args:
        lengths: the lengths to choose from, uniformly (`Task.lengths_between`).
        size: how many examples.
        seed, split: what tells this set from others of the same task.

    Raises:
        ValueError: no examples, no lengths, or a length that the task does not have.
    """

    def __init__(self, task: Task, lengths: Sequence[int], size: int, *, seed: int, split: str):
        if size < 1:
            raise ValueError(f"the number of {split} examples must be at least 1, got {size}")
        if not lengths:
            raise ValueError(f"lengths of {split} examples must be given, got none")
        for length in lengths:
            task.check_length(length)
        self.task, self.lengths, self.size = task, list(lengths), size
        self.seed, self.split = seed, split

    def __len__(self) -> int:
        return self.size

    def example(self, index: int) -> Example:
        i = range(self.size)[index]
        random = stream(self.seed, self.task.identity, self.split, i)
        return self.task.example(random, self.lengths[random.integers(len(self.lengths))])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        inputs, targets = self.example(index)
        return {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(targets)}

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """A batch [B, T] of items, shorter ones filled up behind their last token.

        There is no mask: a causal model can't see the filling from where it is asked.
        """
        fill = {"input_ids": self.task.pad_token, "labels": UNASKED}
        return {
            name: pad_sequence([item[name] for item in items], True, value)
            for name, value in fill.items()
        }
