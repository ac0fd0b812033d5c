# SPDX-License-Identifier: Apache-2.0
"""How often a sequence classifier is right, beside always giving the commonest answer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel

from seqlib.data.long_range import Sequences


@dataclass(frozen=True)
class ClassificationScore:
    """Right answers on one split.

    Attributes:
        split: which one was tested.
        sequences: how many.
        accuracy: the part of them that was answered right.
        loss: mean of -log p(right answer), in nats.
        majority: the accuracy of always giving the split's commonest answer.
    """

    split: str
    sequences: int
    accuracy: float
    loss: float
    majority: float

    @property
    def error(self) -> float:
        """The standard error of the accuracy, as of so many independent sequences."""
        return (self.accuracy * (1 - self.accuracy) / self.sequences) ** 0.5


def classify(
    model: PreTrainedModel, sequences: Sequences, split: str, batch_size: int
) -> ClassificationScore:
    """The score of a sequence classifier on one split, on the device that it is on."""
    loader = DataLoader(sequences, batch_size, collate_fn=sequences.collate)
    logits, labels = answers(model, loader)
    return ClassificationScore(
        split=split,
        sequences=len(labels),
        accuracy=accuracy(logits, labels),
        loss=float(torch.nn.functional.cross_entropy(logits, labels)),
        majority=sequences.majority(),
    )


@torch.no_grad()
def answers(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Logits [N, classes], float32, and labels [N] of all batches."""
    training = model.training
    model.eval()
    logits, labels = [], []
    for batch in batches:
        inputs: dict[str, Any] = {k: v.to(model.device) for k, v in batch.items() if k != "labels"}
        logits.append(model(**inputs).logits.float().cpu())
        labels.append(batch["labels"])
    model.train(training)
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The part of rows whose greatest logit is that of the label.

    Raises:
        ValueError: no rows.
    """
    if len(labels) == 0:
        raise ValueError("labels must hold at least one label, got none")
    return float((logits.argmax(-1) == labels).double().mean())


def accuracy_while_training(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of a Trainer: logged as eval_accuracy."""
    logits: Any = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    labels: Any = prediction.label_ids
    return {"accuracy": accuracy(torch.as_tensor(logits), torch.as_tensor(labels))}
