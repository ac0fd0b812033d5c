# SPDX-License-Identifier: Apache-2.0
"""One mixture as files: where it is, and what is held to be true of it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...audio import AudioError, audio_info, read_audio
from .mixing import Mixture

SUM_TOLERANCE = 2.5 / 32768  # two levels of 16-bit rounding


@dataclass(frozen=True)
class MixtureItem:
    """A mixture and its references on disk.

    Attributes:
        name: of the item within its set.
        mixture: its file.
        sources: the file of each speaker.
        noise: the file of what else is in the mixture, where it is known.
        additive: the mixture is the sum of the sources and the noise; not so where the
            references have less reverberation or noise than the mixture.
    """

    name: str
    mixture: Path
    sources: tuple[Path, ...]
    noise: Path | None = None
    additive: bool = True

    def length(self, sampling_rate: int) -> int:
        """Samples in the mixture, read from its header.

        Raises:
            AudioError: it can't be decoded, is not mono or has another rate.
        """
        info = audio_info(self.mixture)
        if info.sampling_rate != sampling_rate:
            raise AudioError(
                f"{self.mixture} must have {sampling_rate} samples per second, "
                f"it has {info.sampling_rate}"
            )
        return info.frames

    def read(self, sampling_rate: int) -> Mixture:
        """Its signals, whole.

        Raises:
            AudioError: a file that can't be used, lengths that differ, a source silent throughout.
        """
        mixture = read_audio(self.mixture, sampling_rate)
        sources = [read_audio(path, sampling_rate) for path in self.sources]
        noise = None if self.noise is None else read_audio(self.noise, sampling_rate)
        for path, source in zip(self.sources, sources, strict=True):
            self._hold_length(path, source, mixture)
            if not source.any():
                raise AudioError(f"{path} must hold sound, it is silent")
        if self.noise is not None and noise is not None:
            self._hold_length(self.noise, noise, mixture)
        return Mixture(mixture, np.stack(sources), noise)

    def _hold_length(self, path: Path, signal: np.ndarray, mixture: np.ndarray) -> None:
        if len(signal) != len(mixture):
            raise AudioError(
                f"{path} must be as long as {self.mixture}, {len(mixture)} samples, "
                f"it has {len(signal)}"
            )

    def check(self, sampling_rate: int) -> None:
        """Hold the whole item to its promises, the sum of its sources among them.

        Raises:
            AudioError: it breaks one.
        """
        signals = self.read(sampling_rate)
        if not self.additive:
            return
        rest = signals.mixture - signals.sources.sum(0)
        if signals.noise is not None:
            rest = rest - signals.noise
        # each file was rounded on its own
        if np.abs(rest).max() > SUM_TOLERANCE * (1 + len(self.sources)) / 2:
            raise AudioError(
                f"{self.mixture} must be the sum of its sources, it differs by "
                f"{np.abs(rest).max():.3g}"
            )


def check_speakers(items: Sequence[MixtureItem], num_speakers: int) -> None:
    """Hold items to a number of sources.

    Raises:
        ValueError: one has another number; the message names it.
    """
    for item in items:
        if len(item.sources) != num_speakers:
            raise ValueError(
                f"{item.mixture} must have {num_speakers} sources, it has {len(item.sources)}"
            )


def read_list(file: Path) -> list[MixtureItem]:
    """Items of a CSV with the columns mixture, source_1, source_2, ..., and maybe id and noise.

    Paths are relative to the CSV's folder.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    with file.open(newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream)
        columns = table.fieldnames or []
        speakers = sorted(c for c in columns if c.startswith("source_"))
        if "mixture" not in columns or not speakers:
            raise ValueError(
                f"{file} must have the columns mixture and source_1, source_2, ..., "
                f"it has {', '.join(columns) or 'none'}"
            )
        items = [
            MixtureItem(
                row.get("id") or Path(row["mixture"]).stem,
                file.parent / row["mixture"],
                tuple(file.parent / row[s] for s in speakers),
                file.parent / row["noise"] if row.get("noise") else None,
            )
            for row in table
        ]
    if not items:
        raise ValueError(f"{file} must hold at least one mixture, it has none")
    return items
