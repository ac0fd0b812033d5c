# SPDX-License-Identifier: Apache-2.0
"""Recordings as arrays: reading, checking, another rate."""

import math
import wave
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

# Zero crossings of the low-pass filter on either side, and where its pass band ends.
_CROSSINGS, _ROLL_OFF = 32, 0.95


class AudioError(ValueError):
    """A recording that can't be used; the message names it and says why."""


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a recording with one channel.

    WAV files with whole numbers need no package, every other format needs soundfile.

    Returns:
        float32 [T] in [-1, 1], and the number of samples per second.

    Raises:
        AudioError: a damaged file, one with several channels or without samples, or a format
            that nothing here reads.
        OSError: no such file.
    """
    path = Path(path)
    try:
        samples, rate = _read_wave(path)
    except (wave.Error, EOFError) as error:
        samples, rate = _read_other(path, error)
    if samples.shape[1] != 1:
        raise AudioError(f"{path} must have one channel, got {samples.shape[1]}; mix them first")
    if not len(samples):
        raise AudioError(f"{path} holds no samples")
    return samples[:, 0], rate


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


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Bring recordings to another number of samples per second by a polyphase low-pass filter.

    Args:
        samples: float32 [..., T].

    Returns:
        float32 [..., ceil(T * new_rate / rate)].
    """
    for name, value in (("rate", rate), ("new_rate", new_rate)):
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    divisor = math.gcd(rate, new_rate)
    down, up = rate // divisor, new_rate // divisor
    if down == up:
        return samples
    *rows, length = samples.shape
    # Output n is at input time n * down / up: its filter depends on n modulo up alone.
    cutoff = _ROLL_OFF * min(1.0, up / down)
    reach = math.ceil(_CROSSINGS / cutoff)
    times = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    offsets = torch.arange(-reach, reach + down + 1, dtype=torch.float64)[None] - times
    taps = cutoff * torch.special.sinc(cutoff * offsets)
    window = torch.cos((offsets / reach).clamp(-1, 1) * math.pi / 2).square()
    count = -(-length * up // down)
    steps = -(-count // up)
    x = torch.from_numpy(np.ascontiguousarray(samples, np.float32)).reshape(-1, 1, length)
    x = F.pad(x, (reach, reach + down + steps * down))
    phases = F.conv1d(x, (taps * window).float()[:, None], stride=down)  # [rows, up, steps ...]
    y = phases[..., :steps].transpose(1, 2).reshape(len(x), -1)
    return y[:, :count].reshape(*rows, count).numpy()


def _read_wave(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path), "rb") as file:
        channels, width, rate, frames, *_ = file.getparams()
        data = file.readframes(frames)
    if len(data) != frames * channels * width:
        raise AudioError(
            f"{path} is damaged: {frames} samples are announced, "
            f"{len(data) // (channels * width)} are there"
        )
    if width == 1:
        values = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    else:  # the bytes of a sample, at the high end of 32 bits
        raw = np.zeros((len(data) // width, 4), np.uint8)
        raw[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        values = (raw.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return values.reshape(-1, channels), rate


def _read_other(path: Path, error: Exception) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError:
        raise AudioError(
            f"{path} is damaged or not a plain WAV file ({error}); soundfile reads "
            "more formats and isn't installed"
        ) from error
    try:
        return soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as cause:
        raise AudioError(f"{path} is damaged or no recording: {cause}") from cause
