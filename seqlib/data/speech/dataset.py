# SPDX-License-Identifier: Apache-2.0
"""Mixtures by index: each one follows from (seed, epoch, index), whoever asks for it and when."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...audio import AudioError
from .items import MixtureItem, check_speakers
from .mixing import SPEEDS, Mixture, change_speed
from .streams import stream
from .windows import cut_window, example_of

logger = logging.getLogger(__name__)

ATTEMPTS = 10
Read = TypeVar("Read")


class MixtureDataset(Dataset[dict[str, Tensor]]):
    """Examples {"input_values" [T], "labels" [C, T]} of one epoch at a time.

    `set_epoch` is called by accelerate's loaders at the start of each epoch; loaders with
    persistent workers would go on with the epoch that their workers were started in.

    Args:
        size: examples in an epoch.
        files: how many files may turn out to be bad.
        sampling_rate: of everything.
        seconds: length of the windows; None gives whole mixtures.
        seed: of all that is drawn.
    """

    def __init__(
        self, size: int, files: int, *, sampling_rate: int, seconds: float | None, seed: int
    ):
        if seconds is not None and round(seconds * sampling_rate) < 1:
            raise ValueError(f"seconds must last at least one sample, got {seconds}")
        self.size, self.sampling_rate, self.seconds, self.seed = size, sampling_rate, seconds, seed
        self.epoch = 0
        # workers mark what they found in memory that they share with the main process
        self._bad = torch.zeros(files, dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Draw what belongs to `epoch` from now on."""
        self.epoch = epoch

    @property
    def bad_files(self) -> int:
        """How many files, or items of a list, were left out because they can't be used."""
        return int(self._bad.sum())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index = range(len(self))[index]
        reason: AudioError | None = None
        for attempt in range(ATTEMPTS):
            rng = stream(self.seed, type(self).__name__, self.epoch, index, attempt)
            try:
                signals = self.draw(index, attempt, rng)
            except AudioError as error:
                reason = error
                continue
            if self.seconds is not None:
                frames = round(self.seconds * self.sampling_rate)
                signals = cut_window(signals, frames, self.sampling_rate, rng)
            return example_of(signals)
        raise AudioError(
            f"example {index} needs files that can be used, {ATTEMPTS} in a row can't: {reason}"
        )

    def draw(self, index: int, attempt: int, rng: np.random.Generator) -> Mixture:
        """The mixture of an index; after an AudioError it is asked for once more.

        Raises:
            AudioError: a file that can't be used.
        """
        raise NotImplementedError

    def guard(self, file: int, read: Callable[[], Read]) -> Read:
        """`read()`; where it raises AudioError the file is reported and counted."""
        try:
            return read()
        except AudioError as error:
            if not self._bad[file]:
                logger.warning("left out of training: %s", error)
                self._bad[file] = True
            raise


class ListedMixtures(MixtureDataset):
    """Mixtures from files, one after the other.

    Args:
        items: what to read.
        num_speakers: sources that every item must have.
        sampling_rate: that every file must have.
        seconds: length of random windows; None gives whole mixtures, the same in every epoch.
        speed_perturbation: play each source at 95, 100 or 105 % of its speed and add them again.
        strict: a bad file raises, as evaluation needs it; else another item takes its place.
        seed: of windows and speeds.

    Raises:
        ValueError: no items, another number of sources, or a speed for mixtures that are more
            than the sum of their sources.
    """

    def __init__(
        self,
        items: Sequence[MixtureItem],
        *,
        num_speakers: int,
        sampling_rate: int,
        seconds: float | None = None,
        speed_perturbation: bool = False,
        strict: bool = False,
        seed: int = 0,
    ):
        if not items:
            raise ValueError("items must hold at least one mixture, got none")
        check_speakers(items, num_speakers)
        if speed_perturbation:
            for item in items:
                if item.noise is not None or not item.additive:
                    raise ValueError(
                        "speed_perturbation needs mixtures that are the sum of their sources, "
                        f"{item.mixture} is more than that"
                    )
        super().__init__(
            len(items), len(items), sampling_rate=sampling_rate, seconds=seconds, seed=seed
        )
        self.items, self.strict, self.speed_perturbation = list(items), strict, speed_perturbation

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.strict and self.seconds is None:
            return example_of(self.items[index].read(self.sampling_rate))
        return super().__getitem__(index)

    def draw(self, index: int, attempt: int, rng: np.random.Generator) -> Mixture:
        file = int(rng.integers(len(self.items))) if attempt else index
        signals = self.guard(file, lambda: self.items[file].read(self.sampling_rate))
        if not self.speed_perturbation:
            return signals
        speeds = rng.choice(SPEEDS, len(signals.sources))
        sources = [change_speed(s, int(p)) for s, p in zip(signals.sources, speeds, strict=True)]
        length = min(len(s) for s in sources)
        cut = np.stack([s[:length] for s in sources])
        return Mixture(cut.sum(0), cut)
