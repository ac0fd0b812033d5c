# SPDX-License-Identifier: Apache-2.0
"""Samples that a network can make something of."""

import numpy as np

from .errors import AudioError


def check_samples(samples: np.ndarray, minimum: int, name: str = "audio") -> np.ndarray:
    """Return `samples` as float32 [T] if they are a recording that can be separated.

    Raises:
        AudioError: several channels, fewer than `minimum` samples, NaN or infinite ones, or
            silence.
        TypeError: whole numbers, whose full scale is not known.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise AudioError(f"{name} must have shape (T,), one channel, got {samples.shape}")
    if not np.issubdtype(samples.dtype, np.floating):
        raise TypeError(f"{name} must hold floating-point samples, got {samples.dtype}")
    if len(samples) < minimum:
        raise AudioError(f"{name} must have at least {minimum} samples, got {len(samples)}")
    samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise AudioError(
            f"{name} must be finite, got {np.count_nonzero(~np.isfinite(samples))} "
            f"NaN or infinite samples"
        )
    if not samples.any():
        raise AudioError(f"{name} is silent: every sample is 0")
    return samples
