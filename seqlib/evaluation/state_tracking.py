# SPDX-License-Identifier: Apache-2.0
"""How well a model tracks a state: right answers by length, in units where a guess is zero."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from seqlib.data.state_tracking import UNASKED, TaskExamples

Number = TypeVar("Number", float, np.ndarray)


@dataclass(frozen=True)
class TrackingScore:
    """Accuracy over all answers and by length.

    Where an answer is asked for after every token, a length is a prefix: `accuracy_by_length` is
    that of the answer after so many tokens, and `sequence_accuracy` the part of the sequences
    whose first so many answers are all right. Where one answer ends the sequence, a length is
    the whole sequence's, its answer counted, and there is no `sequence_accuracy`.

    Attributes:
        chance: the accuracy of a guess.
        sequences: how many were tested.
        accuracy: right answers of all that were asked for.
        lengths: ascending.
        sequences_by_length: how many had an answer there.
    """

    chance: float
    sequences: int
    accuracy: float
    lengths: list[int]
    sequences_by_length: list[int]
    accuracy_by_length: list[float]
    sequence_accuracy: list[float] | None

    @property
    def scaled_accuracy(self) -> float:
        return scaled_accuracy(self.accuracy, self.chance)

    def sequence_accuracy_at(self, length: int) -> float:
        """The part of the sequences whose first `length` answers are all right.

        Raises:
            ValueError: one answer a sequence, or a length that was not tested.
        """
        if self.sequence_accuracy is None:
            raise ValueError("there is no sequence accuracy where one answer ends a sequence")
        if length not in self.lengths:
            raise ValueError(
                f"length must be from {self.lengths[0]} to {self.lengths[-1]}, got {length}"
            )
        return self.sequence_accuracy[self.lengths.index(length)]


def scaled_accuracy(accuracy: Number, chance: float) -> Number:
    """(accuracy - chance) / (1 - chance): 0 for a guess, 1 for all right (arXiv 2411.12537, E.1).

    Raises:
        ValueError: a chance that is no probability below 1.
    """
    if not 0 <= chance < 1:
        raise ValueError(f"chance must be at least 0 and below 1, got {chance}")
    return (accuracy - chance) / (1 - chance)


def score_answers(right: Tensor, asked: Tensor, chance: float, answer_tokens: int) -> TrackingScore:
    """Count right answers by length.

    Args:
        right: [N, T] bool, whether the answer after each token is right; read only where asked.
        asked: [N, T] bool, where an answer was asked for.
        chance: the accuracy of a guess.
        answer_tokens: `Task.answer_tokens`: 0 for an answer after every token, 1 for one answer
            that ends the sequence and counts in its length.

    Raises:
        ValueError: nothing was asked for.
    """
    right = right & asked
    if not bool(asked.any()):
        raise ValueError("asked must be true somewhere: no answer was asked for")
    whole = None
    if not answer_tokens:  # in bytes: the papers test 500,000 sequences of 512
        whole = (right | ~asked).cumprod(1, dtype=torch.uint8).bool() & asked
    columns = asked.any(0).nonzero()[:, 0]
    sequences = asked.sum(0)[columns]

    def part(true: Tensor) -> list[float]:
        return (true.sum(0)[columns] / sequences).tolist()

    return TrackingScore(
        chance=chance,
        sequences=len(asked),
        accuracy=float(right.sum() / asked.sum()),
        lengths=(columns + 1 + answer_tokens).tolist(),
        sequences_by_length=sequences.tolist(),
        accuracy_by_length=part(right),
        sequence_accuracy=None if whole is None else part(whole),
    )


def track(model: PreTrainedModel, examples: TaskExamples, batch_size: int = 128) -> TrackingScore:
    """The score of a token classifier on `examples`, on the device that it is on."""
    loader = DataLoader(examples, batch_size, collate_fn=examples.collate)
    right, asked = answers(model, loader)
    task = examples.task
    return score_answers(right, asked, task.chance, task.answer_tokens)


@torch.no_grad()
def answers(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Which answers of a token classifier are right and which were asked for, [N, T] bool."""
    training = model.training
    model.eval()
    rights, askeds = [], []
    for batch in batches:
        labels = batch["labels"]
        logits = model(input_ids=batch["input_ids"].to(model.device)).logits
        rights.append(logits.argmax(-1).cpu() == labels)
        askeds.append(labels != UNASKED)
    model.train(training)
    return _stack(rights), _stack(askeds)


def _stack(parts: list[Tensor]) -> Tensor:
    """Batches of several lengths as one tensor, False behind the shorter ones."""
    T = max(part.shape[1] for part in parts)
    found = torch.zeros(sum(len(part) for part in parts), T, dtype=torch.bool)
    row = 0
    for part in parts:
        found[row : row + len(part), : part.shape[1]] = part
        row += len(part)
    return found
