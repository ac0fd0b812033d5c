# SPDX-License-Identifier: Apache-2.0
"""Another sampling rate by a polyphase windowed sinc."""

import math
from functools import lru_cache

import numpy as np
import torch

ZEROS = 24  # zero crossings of the sinc on each side
ROLLOFF = 0.95  # of the lower Nyquist frequency: where the filter is 6 dB down
BETA = 10.0  # of the Kaiser window: about 100 dB of stop band


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """`samples` [T] at `target_rate`: [ceil(T * target_rate / source_rate)] in the same dtype.

    A ratio up/down in lowest terms needs `up` short filters, one for each phase of the output.
    With the rates p and 100 a signal is played at p percent of its speed.

    Raises:
        ValueError: rates that are not positive.
    """
    if source_rate <= 0 or target_rate <= 0:
        raise ValueError(f"rates must be positive, got {source_rate} and {target_rate}")
    common = math.gcd(source_rate, target_rate)
    up, down = target_rate // common, source_rate // common
    if up == down or not len(samples):
        return samples.copy()
    filters, reach = _filters(up, down)
    length = -(-len(samples) * up // down)
    blocks = -(-length // up)  # every block of `up` outputs starts `down` inputs later
    right = max((blocks - 1) * down + filters.shape[-1] - reach - len(samples), 0)
    x = np.pad(samples.astype(np.float64), (reach, right))
    y = torch.nn.functional.conv1d(torch.from_numpy(x)[None, None], filters, stride=down)
    return y[0, :, :blocks].T.reshape(-1)[:length].numpy().astype(samples.dtype)


@lru_cache
def _filters(up: int, down: int) -> tuple[torch.Tensor, int]:
    """[up, 1, taps] float64, and how many inputs lie left of a block's first output."""
    cutoff = ROLLOFF * min(1.0, up / down)  # cycles per two input samples
    half = ZEROS / cutoff
    reach = math.ceil(half)
    taps = np.arange(-reach, down + reach + 1)
    distance = taps - np.arange(up)[:, None] * down / up
    inside = np.clip(1 - (distance / half) ** 2, 0.0, None)
    filters = cutoff * np.sinc(cutoff * distance) * np.i0(BETA * np.sqrt(inside)) / np.i0(BETA)
    filters[np.abs(distance) > half] = 0.0
    filters /= filters.sum(1, keepdims=True)  # a constant stays what it is at every phase
    return torch.from_numpy(filters)[:, None], reach
