# SPDX-License-Identifier: Apache-2.0
"""Short-time spectra, and the features that the enhancement network reads from a waveform.

A window is 40 ms and moves by 8 ms: W samples and W / 5, W = 2 (F - 1) for F frequencies. The
first begins at the first sample of the recording.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_FULL_SCALE = 32768.0  # the features are those of whole numbers of 16 bits
_PREEMPHASIS = 0.97
_LOWEST = 20.0  # Hz, the lower end of the first mel filter
_DELTA = (-0.2, -0.1, 0.0, 0.1, 0.2)  # slope of a line through five frames


def num_frames(lengths: Tensor, frequencies: int) -> Tensor:
    """Windows that cover `lengths` samples."""
    width = 2 * (frequencies - 1)
    return -((width - lengths) // (width // 5)) + 1


def to_spectrum(samples: Tensor, frequencies: int) -> Tensor:
    """[B, T] samples to their short-time spectrum, complex [B, S, F]."""
    return torch.fft.rfft(_frames(samples, frequencies) * _window(frequencies, samples))


def from_spectrum(spectrum: Tensor, length: int, frames: Tensor) -> Tensor:
    """The samples [B, length] whose spectrum is nearest to complex [B, S, F].

    Args:
        frames: [B] how many of S belong to each row; samples behind them are 0.
    """
    window = _window(spectrum.shape[-1], spectrum.real)
    valid = torch.arange(spectrum.shape[1], device=spectrum.device) < frames[:, None]
    weight = valid[..., None].to(window.dtype) * window
    pieces = torch.fft.irfft(spectrum, n=len(window)) * weight
    total, envelope = (_overlap_add(x, length) for x in (pieces, weight * window))
    return total / torch.where(envelope > 0, envelope, 1.0)


def features(samples: Tensor, frames: Tensor, bins: int, frequencies: int, rate: int) -> Tensor:
    """Log mel energies as Kaldi computes them without dither, and their first two slopes.

    Args:
        samples: [B, T] in [-1, 1], float32 or float64.
        frames: [B] how many of S belong to each row: slopes repeat the last of them.
        bins: mel filters.

    Returns:
        [B, S, 3 * bins].
    """
    x = _frames(samples * _FULL_SCALE, frequencies)
    x = x - x.mean(-1, keepdim=True)
    x = x - _PREEMPHASIS * torch.cat([x[..., :1], x[..., :-1]], -1)
    padded = 1 << (x.shape[-1] - 1).bit_length()  # the next power of two
    power = torch.fft.rfft(x * _window(frequencies, x), n=padded).abs().square()
    energies = power[..., :-1] @ _mel_filters(bins, padded // 2, rate).to(power)
    log_mel = energies.clamp(min=torch.finfo(torch.float32).eps).log()
    slope = _slope(log_mel, frames)
    return torch.cat([log_mel, slope, _slope(slope, frames)], -1)


def _frames(samples: Tensor, frequencies: int) -> Tensor:
    width = 2 * (frequencies - 1)
    return samples.unfold(-1, width, width // 5)


def _window(frequencies: int, like: Tensor) -> Tensor:
    """The symmetric Hamming window."""
    width = 2 * (frequencies - 1)
    window = torch.hamming_window(width, periodic=False, dtype=torch.float64, device=like.device)
    return window.to(like.dtype)


def _overlap_add(pieces: Tensor, length: int) -> Tensor:
    """[B, S, W] windows at their places in [B, length]."""
    count, width = pieces.shape[1:]
    hop = width // 5
    covered = (count - 1) * hop + width
    summed = F.fold(pieces.transpose(1, 2), (1, covered), (1, width), stride=(1, hop))
    return F.pad(summed[:, 0, 0], (0, length - covered))


def _mel_filters(bins: int, frequencies: int, rate: int) -> Tensor:
    """[frequencies, bins] triangles that are even on the mel scale, up to half the rate."""
    ends = _mel(torch.tensor([_LOWEST, rate / 2], dtype=torch.float64))
    step = (ends[1] - ends[0]) / (bins + 1)
    centres = ends[0] + step * torch.arange(1, bins + 1)
    places = _mel(torch.arange(frequencies, dtype=torch.float64) * (rate / 2 / frequencies))
    return (1 - (places[:, None] - centres).abs() / step).clamp(min=0)


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)


def _slope(x: Tensor, frames: Tensor) -> Tensor:
    last = (frames - 1)[:, None]
    place = torch.arange(x.shape[1], device=x.device)
    total = torch.zeros_like(x)
    for offset, weight in zip(range(-2, 3), _DELTA, strict=True):
        index = (place + offset).clamp(min=0).minimum(last)  # [B, S]
        total += weight * x.gather(1, index[..., None].expand_as(x))
    return total
