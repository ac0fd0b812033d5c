# SPDX-License-Identifier: Apache-2.0
"""How utterances become a mixture: levels, lengths, speed, noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...audio import resample

FRAME_SECONDS = 0.02
ACTIVE_RANGE = 1e-4  # 40 dB below the loudest frame
TRIM_MARGIN = 2  # frames kept before the first and after the last active one
PEAK = 0.9
SPEEDS = (95, 100, 105)  # percent


@dataclass(frozen=True)
class Mixture:
    """Signals of one length: `mixture` [T], `sources` [C, T], and `noise` [T] where there is any.

    The mixture is the sum of the others; all are float32.
    """

    mixture: np.ndarray
    sources: np.ndarray
    noise: np.ndarray | None = None


def active_frames(samples: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Power of each 20 ms frame, and which of them are within 40 dB of the loudest.

    A last frame that is not full counts by its own samples; of silence no frame is active.
    """
    size = max(round(FRAME_SECONDS * sampling_rate), 1)
    starts = np.arange(0, len(samples), size)
    energy = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    power = energy / np.diff(np.append(starts, len(samples)))
    return power, (power >= ACTIVE_RANGE * power.max()) & (power > 0)


def active_level(samples: np.ndarray, sampling_rate: int) -> float:
    """Root mean power of the active frames, 0 for silence.

    The corpora of WSJ0 measure it by ITU-T P.56; the frame rule is simpler and needs no filter.
    """
    power, active = active_frames(samples, sampling_rate)
    return float(np.sqrt(power[active].mean())) if active.any() else 0.0


def trim(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Without the silence at both ends, but for two frames; empty for silence."""
    _, active = active_frames(samples, sampling_rate)
    if not active.any():
        return samples[:0]
    size = max(round(FRAME_SECONDS * sampling_rate), 1)
    first, last = np.flatnonzero(active)[[0, -1]]
    return samples[max(first - TRIM_MARGIN, 0) * size : (last + 1 + TRIM_MARGIN) * size]


def change_speed(samples: np.ndarray, percent: int) -> np.ndarray:
    """Played at `percent` of its speed: pitch and tempo change together, the rate stays."""
    return resample(samples, percent, 100)


def mix(
    sources: Sequence[np.ndarray],
    gains: Sequence[float],
    sampling_rate: int,
    *,
    mode: str = "min",
) -> Mixture:
    """Add sources at relative levels, as WSJ0-2mix does.

    Each source is brought to active level 1, then to its gain; "min" cuts all to the shortest,
    "max" pads with zeros to the longest. One factor brings the largest magnitude of the mixture
    and of every source to 0.9.

    Args:
        sources: C signals [T_i].
        gains: of each source in dB.
        mode: "min" or "max".

    Raises:
        ValueError: fewer gains than sources, an unknown mode, or a silent source.
    """
    if len(gains) != len(sources) or not sources:
        raise ValueError(
            f"gains must hold one number per source, got {len(gains)} for {len(sources)}"
        )
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
    lengths = [len(source) for source in sources]
    length = min(lengths) if mode == "min" else max(lengths)
    scaled = np.zeros((len(sources), length))
    for row, source, gain in zip(scaled, sources, gains, strict=True):
        row[: len(source)] = _at_level(source, gain, sampling_rate)[:length]
    parts, mixture = fit_peak(scaled)
    return Mixture(mixture, parts)


def fit_peak(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`parts` [C, T] and their sum [T] by one factor: the largest magnitude becomes 0.9."""
    mixture = parts.sum(0)
    factor = PEAK / max(np.abs(mixture).max(), np.abs(parts).max())
    return (parts * factor).astype(np.float32), (mixture * factor).astype(np.float32)


def _at_level(samples: np.ndarray, gain: float, sampling_rate: int) -> np.ndarray:
    level = active_level(samples, sampling_rate)
    if level == 0:
        raise ValueError("a source to be mixed must hold sound, one is silent")
    return samples.astype(np.float64) * (10 ** (gain / 20) / level)
