# SPDX-License-Identifier: Apache-2.0
"""What masks on a spectrogram can reach when they are computed from the references."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .intervals import Mean, bootstrap_mean
from .separation import si_snr

WINDOW, HOP = 256, 64
MASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "ideal ratio": lambda s: s / s.sum(0).clamp_min(torch.finfo(s.dtype).tiny),
    "ideal binary": lambda s: (s == s.amax(0)).to(s.dtype),
    "Wiener-like": lambda s: s.square() / s.square().sum(0).clamp_min(torch.finfo(s.dtype).tiny),
}


def separate_by_oracle(sources: Tensor, mixture: Tensor, mask: str) -> Tensor:
    """The mixture's spectrogram times a mask of the references' magnitudes, as sound.

    Short-time Fourier transform of 256 samples every 64 with a Hann window; the phase is that of
    the mixture.

    Args:
        sources: [C, T] the references.
        mixture: [T].
        mask: "ideal ratio" (magnitudes), "ideal binary" or "Wiener-like" (squared magnitudes).

    Returns:
        [C, T].

    Raises:
        ValueError: an unknown mask.
    """
    if mask not in MASKS:
        raise ValueError(f"mask must be one of {', '.join(MASKS)}, got {mask!r}")
    window = torch.hann_window(WINDOW, dtype=mixture.dtype)
    spectrum = _stft(mixture, window)
    estimates = spectrum * MASKS[mask](_stft(sources, window).abs())
    return torch.istft(estimates, WINDOW, HOP, window=window, length=mixture.shape[-1])


def oracle_scores(examples: Sequence[Mapping[str, Tensor]]) -> dict[str, Mean]:
    """SI-SNR of the mixtures, and the improvement of each mask, in dB.

    Args:
        examples: with "input_values" [T] and "labels" [C, T].

    Returns:
        "mixture" and one entry per mask; means over mixtures of their speakers' mean.
    """
    values: dict[str, list[float]] = {"mixture": [], **{mask: [] for mask in MASKS}}
    for example in examples:
        sources, mixture = example["labels"].double(), example["input_values"].double()
        before = si_snr(mixture.expand_as(sources), sources)
        values["mixture"].append(float(before.mean()))
        for mask in MASKS:
            after = si_snr(separate_by_oracle(sources, mixture, mask), sources)
            values[mask].append(float((after - before).mean()))
    return {name: bootstrap_mean(numbers) for name, numbers in values.items()}


def _stft(signals: Tensor, window: Tensor) -> Tensor:
    return torch.stft(signals, WINDOW, HOP, window=window, return_complex=True)
