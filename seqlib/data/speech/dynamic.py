# SPDX-License-Identifier: Apache-2.0
"""Mixtures that are made while training: of prompts, or of anybody's recordings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...audio import AudioError, read_audio
from .dataset import MixtureDataset
from .mixing import Mixture, fit_peak
from .prompt_store import PromptStore
from .prompts import SAMPLING_RATE
from .prompts_2mix import TRAIN_MIXTURES, Drawer, training_drawer

# dB of the mean absolute amplitude: mean and spread of the first speaker, then of the others'
# distance to the first; limits
FIRST, OTHERS, LIMITS = (-27.43, 2.57), (-2.51, 2.66), (-45.0, 0.0)

# percent; wider than the usual 95 to 105, as only four voices are there to be told apart
VOICE_SPEEDS = tuple(range(80, 121, 5))


class PromptMixtures(MixtureDataset):
    """Two persons of `prompts-2mix`, drawn anew in every epoch.

    Args:
        store: the prompts.
        across_sexes: only a man with a woman.
        seconds: length of the windows; None gives whole mixtures.
        speed_perturbation: play each voice at 80 to 120 % of its speed, which changes its pitch.
        size: mixtures in an epoch.
        seed: of all that is drawn.
    """

    def __init__(
        self,
        store: PromptStore,
        *,
        across_sexes: bool = False,
        seconds: float | None = 4.0,
        speed_perturbation: bool = False,
        size: int = TRAIN_MIXTURES,
        seed: int = 0,
    ):
        super().__init__(size, 0, sampling_rate=SAMPLING_RATE, seconds=seconds, seed=seed)
        self.store, self.across_sexes = store, across_sexes
        self.speeds = VOICE_SPEEDS if speed_perturbation else (100,)
        self._drawer: tuple[int, Drawer] | None = None

    def draw(self, index: int, attempt: int, rng: np.random.Generator) -> Mixture:
        if self._drawer is None or self._drawer[0] != self.epoch:
            drawer = training_drawer(
                self.store, self.seed, self.epoch, across_sexes=self.across_sexes
            )
            self._drawer = self.epoch, drawer
        drawer = self._drawer[1]
        draw = drawer.draw(rng)
        first, second = rng.choice(self.speeds, 2)
        return drawer.mix(draw, (int(first), int(second)))


class DynamicMixtures(MixtureDataset):
    """Recordings of known speakers, mixed as the recipes of WSJ0-2mix and WHAM! do.

    Speakers are drawn without replacement in proportion to their recordings, one recording each;
    all are cut to the shortest, brought to a mean absolute amplitude drawn in dB, and added. One
    factor brings the largest magnitude to 0.9.

    Args:
        recordings: files of each speaker, of any rate.
        noises: files of which one is added as it is.
        num_speakers: in a mixture.
        sampling_rate: of the mixtures.
        seconds: length of the windows; None gives whole mixtures.
        size: mixtures in an epoch.
        seed: of all that is drawn.

    Raises:
        ValueError: fewer speakers with recordings than `num_speakers`.
    """

    def __init__(
        self,
        recordings: Mapping[str, Sequence[Path]],
        *,
        noises: Sequence[Path] = (),
        num_speakers: int = 2,
        sampling_rate: int,
        seconds: float | None = 4.0,
        size: int,
        seed: int = 0,
    ):
        self.speakers = [list(files) for files in recordings.values() if files]
        if len(self.speakers) < num_speakers:
            raise ValueError(
                f"recordings must hold at least {num_speakers} speakers, got {len(self.speakers)}"
            )
        self.num_speakers, self.noises = num_speakers, list(noises)
        self._starts = np.cumsum([0, *map(len, self.speakers)])
        files = int(self._starts[-1]) + len(self.noises)
        super().__init__(size, files, sampling_rate=sampling_rate, seconds=seconds, seed=seed)

    def draw(self, index: int, attempt: int, rng: np.random.Generator) -> Mixture:
        counts = np.diff(self._starts)
        chosen = rng.choice(len(counts), self.num_speakers, replace=False, p=counts / counts.sum())
        speech = []
        for speaker in chosen:
            file = int(rng.integers(counts[speaker]))
            place = int(self._starts[speaker]) + file
            samples = self._read(place, self.speakers[speaker][file])
            speech.append(samples / np.abs(samples).max())
        noise = None
        if self.noises:
            file = int(rng.integers(len(self.noises)))
            noise = self._read(int(self._starts[-1]) + file, self.noises[file])
        everything = speech if noise is None else [*speech, noise]
        length = min(map(len, everything))
        cut = [_random_part(samples, length, rng) for samples in everything]
        levels = _levels(self.num_speakers, rng)
        sources = [_at_amplitude(s, g) for s, g in zip(cut, levels, strict=False)]
        parts, mixture = fit_peak(np.stack([*sources, *cut[self.num_speakers :]]))
        hiss = parts[-1] if noise is not None else None
        return Mixture(mixture, parts[: self.num_speakers], hiss)

    def _read(self, place: int, path: Path) -> np.ndarray:
        def read() -> np.ndarray:
            samples = read_audio(path, self.sampling_rate, resample=True)
            if not samples.any():
                raise AudioError(f"{path} must hold sound, it is silent")
            return samples.astype(np.float64)

        return self.guard(place, read)


def _levels(speakers: int, rng: np.random.Generator) -> list[float]:
    first = float(np.clip(rng.normal(*FIRST), *LIMITS))
    others = [float(np.clip(first + rng.normal(*OTHERS), *LIMITS)) for _ in range(speakers - 1)]
    return [first, *others]


def _at_amplitude(samples: np.ndarray, decibels: float) -> np.ndarray:
    mean = np.abs(samples).mean()
    if mean == 0:
        raise AudioError("the part of a recording that was drawn is silent")
    return samples * (10 ** (decibels / 20) / mean)


def _random_part(samples: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(len(samples) - length + 1))
    return samples[start : start + length]
