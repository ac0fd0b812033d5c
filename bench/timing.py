# SPDX-License-Identifier: Apache-2.0
"""Timing: samples taken in turns from all contenders, and what is reported of them."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

ROUNDS = 3
MOST_SAMPLES = 60  # per round

# A timed run: it may call its argument once, between the forward and the backward pass.
Run = Callable[[Callable[[], None]], object]


@dataclass(frozen=True)
class Sample:
    """Seconds of one run: all of it, and the part behind the mark if the run set it."""

    total: float
    after_mark: float | None = None


@dataclass(frozen=True)
class Summary:
    """Seconds: the best, the median, and the 20th and 80th percentiles of `samples` runs."""

    best: float
    median: float
    p20: float
    p80: float
    samples: int


def summarise(seconds: list[float]) -> Summary:
    """Percentiles by linear interpolation.

    Raises:
        ValueError: no samples.
    """
    if not seconds:
        raise ValueError("seconds must hold at least one sample, got none")
    p20, median, p80 = (float(x) for x in np.percentile(seconds, (20, 50, 80)))
    return Summary(best=min(seconds), median=median, p20=p20, p80=p80, samples=len(seconds))


def take_turns(
    runs: Mapping[str, Run], sample: Callable[[Run], Sample], seconds: float
) -> dict[str, list[Sample]]:
    """Time each of `runs` for about `seconds`, in ROUNDS turns of at least one sample.

    Taking turns lets a burst of other load on the machine hit everyone. The garbage collector
    waits meanwhile.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name, run in runs.items():
                end = time.perf_counter() + seconds / ROUNDS
                for _ in range(MOST_SAMPLES):
                    samples[name].append(sample(run))
                    if time.perf_counter() > end:
                        break
    finally:
        gc.enable()
    return samples
