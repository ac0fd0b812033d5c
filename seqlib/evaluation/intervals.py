# SPDX-License-Identifier: Apache-2.0
"""Means with the interval that chance alone explains."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """A mean over independent items.

    Attributes:
        value: the mean; NaN of none.
        low, high: ends of its 95 % interval.
        items: how many were averaged.
        excluded: how many were left out because they have no value.
    """

    value: float
    low: float
    high: float
    items: int
    excluded: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Mean:
    """The mean with its 95 % percentile-bootstrap interval.

    Items are drawn with replacement, 2,000 times. NaN stands for an item without a value: it is
    left out and counted. Infinities are values, and make the mean infinite.
    """
    found = np.asarray(values, np.float64)
    kept = found[~np.isnan(found)]
    excluded = len(found) - len(kept)
    if len(kept) == 0:
        return Mean(float("nan"), float("nan"), float("nan"), 0, excluded)
    if not np.isfinite(kept).all():
        mean = float(kept.mean())
        return Mean(mean, mean, mean, len(kept), excluded)
    rng = np.random.default_rng(seed)
    means = [kept[rng.integers(len(kept), size=len(kept))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Mean(float(kept.mean()), float(low), float(high), len(kept), excluded)
