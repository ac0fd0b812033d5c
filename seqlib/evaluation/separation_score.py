# SPDX-License-Identifier: Apache-2.0
"""The score of a separation model on a fixed list of mixtures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .intervals import Mean, bootstrap_mean
from .separation import improvements, is_silent, match
from .separation_libraries import check_metrics, library_metric


@dataclass(frozen=True)
class SeparationScore:
    """Means over the mixtures of one split.

    Attributes:
        split: which one.
        mixtures: how many.
        silent_references: references without a sound, which no metric is defined for.
        means: by metric ("si_sdri", ...): an average over the references of a mixture, then over
            mixtures, with the interval that chance in drawing the mixtures explains.
    """

    split: str
    mixtures: int
    silent_references: int
    means: Mapping[str, Mean]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SeparationScore":
        means = {name: Mean(**mean) for name, mean in values["means"].items()}
        return cls(**{**values, "means": means})


def score_separation(
    model: PreTrainedModel,
    mixtures: Iterable[Mapping[str, Tensor]],
    split: str,
    *,
    rate: int,
    libraries: Sequence[str] = (),
) -> SeparationScore:
    """Separate every mixture on its own, whole, on the device of the model.

    Args:
        model: its output has `sources` [B, C, T].
        mixtures: "input_values" [T] and "labels" [C, T] each.
        rate: in Hz.
        libraries: metrics of other packages to compute as well (`separation_libraries`).

    Raises:
        ValueError: no mixtures, an unknown metric, or another number of sources than of labels.
        ImportError: a metric's package is not installed.
    """
    check_metrics(libraries, rate)
    silent, rows = 0, []
    for example in mixtures:
        mixture, references = example["input_values"], example["labels"]
        estimates, _ = match(separated(model, mixture), references)
        values = improvements(estimates, references, mixture)
        for name in libraries:
            values |= library_metric(name, estimates, references, mixture, rate)
        silent += int(is_silent(references).sum())
        rows.append({name: _mean(row) for name, row in values.items()})
    if not rows:
        raise ValueError(f"the split {split!r} must hold at least one mixture, got none")
    means = {name: bootstrap_mean([row[name] for row in rows]) for name in rows[0]}
    return SeparationScore(split, len(rows), silent, means)


@torch.no_grad()
def separated(model: PreTrainedModel, mixture: Tensor) -> Tensor:
    """The sources [C, T] of one mixture [T], float32 on the CPU."""
    training = model.training
    model.eval()
    output: Any = model(input_values=mixture[None].to(model.device))
    model.train(training)
    return output.sources[0].float().cpu()


def _mean(values: Sequence[float]) -> float:
    """Of the references that have a value."""
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan
