# SPDX-License-Identifier: Apache-2.0
"""Cleaned prompts on disk, and the utterances that are joined from them."""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...audio import from_int16, to_int16
from ..cache import atomic_directory, check_size, folder_of, read_about
from ..splits import hash_fraction
from .prompts import SAMPLING_RATE, VOICES, PromptSource, Voice
from .streams import stream

logger = logging.getLogger(__name__)

FOLDER, PREFIX = "prompts-v1", "prompts-2mix-v1"
UTTERANCE_SECONDS = 4.0
GAP_SECONDS = (0.1, 0.3)
COLUMNS = ("voice", "key", "split", "offset", "length")


@dataclass(frozen=True)
class Utterance:
    """Prompts of one voice said one after the other.

    Attributes:
        voice: name of the voice.
        keys: of the prompts, in order.
        gaps: zeros after each prompt but the last, in samples.
    """

    voice: str
    keys: tuple[str, ...]
    gaps: tuple[int, ...]


class PromptStore:
    """Every prompt of every voice; `samples` are read from disk as they are asked for.

    Attributes:
        manifest: versions, licences, what was dropped, minutes by split, `sha256`.
        voices: by name.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: Mapping[str, Any] = read_about(folder / "manifest.json")
        check_size(folder / "prompts.bin", self.manifest["bytes"])
        self.voices: Mapping[str, Voice] = {v.name: v for v in VOICES}
        self._where: dict[tuple[str, str], tuple[int, int]] = {}
        self._keys: dict[tuple[str, str], list[str]] = {}
        with (folder / "prompts.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                place = int(row["offset"]), int(row["length"])
                self._where[row["voice"], row["key"]] = place
                self._keys.setdefault((row["voice"], row["split"]), []).append(row["key"])

    def keys(self, voice: str, split: str | None) -> list[str]:
        """Keys of a voice's prompts in "train", "validation" or "test"; all of them for None."""
        splits = ("train", "validation", "test") if split is None else (split,)
        return [key for s in splits for key in self._keys.get((voice, s), [])]

    def samples(self, voice: str, key: str) -> np.ndarray:
        """One prompt, [T] float32 at 8,000 per second."""
        offset, length = self._where[voice, key]
        # opened anew each time: a map that is kept would be copied to every worker
        levels = np.memmap(self.folder / "prompts.bin", "<i2", "r", 2 * offset, (length,))
        return from_int16(levels)

    def speech(self, utterance: Utterance) -> np.ndarray:
        """An utterance as sound, [T] float32."""
        parts = []
        for key, gap in zip(utterance.keys, (*utterance.gaps, 0), strict=True):
            parts += [self.samples(utterance.voice, key), np.zeros(gap, np.float32)]
        return np.concatenate(parts)

    def utterances(
        self, voice: str, split: str | None, rng: np.random.Generator
    ) -> list[Utterance]:
        """A voice's prompts in random order, joined until each utterance lasts 4 s.

        The prompts that are left at the end and are too short together stay out.
        """
        keys = self.keys(voice, split)
        done, chosen, gaps, length = [], [], [], 0
        for i in rng.permutation(len(keys)):
            if chosen:
                gaps.append(round(rng.uniform(*GAP_SECONDS) * SAMPLING_RATE))
                length += gaps[-1]
            chosen.append(keys[i])
            length += self._where[voice, keys[i]][1]
            if length >= UTTERANCE_SECONDS * SAMPLING_RATE:
                done.append(Utterance(voice, tuple(chosen), tuple(gaps)))
                chosen, gaps, length = [], [], 0
        return done

    def plan(
        self, voices: Sequence[str], split: str | None, seed: int, *names: str | int
    ) -> list[Utterance]:
        """Utterances of several voices, drawn from the streams of `seed` and `names`."""
        return [
            utterance
            for voice in voices
            for utterance in self.utterances(voice, split, stream(seed, *names, voice))
        ]


def open_prompts(
    root: Path, *, path: str | os.PathLike[str] | None = None, fetch: bool = False
) -> PromptStore:
    """The prompts from the cache below `root`, made first when they are not there.

    Raises:
        ValueError: packages are missing and `fetch` is off, or the cached files are damaged.
        AudioError: a damaged recording.
        RuntimeError: a download failed.
        OSError: the cache can't be written.
    """
    target = root / folder_of(FOLDER, path)
    if not (target / "manifest.json").is_file():
        source = PromptSource(path, fetch=fetch)
        logger.info("preparing the prompts in %s", target)
        with atomic_directory(target) as scratch:
            _write(scratch, source)
    return PromptStore(target)


def _write(folder: Path, source: PromptSource) -> None:
    digest, offset = hashlib.sha256(), 0
    minutes: dict[str, dict[str, float]] = {}
    with (
        (folder / "prompts.bin").open("wb") as data,
        (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as table,
    ):
        rows = csv.writer(table)
        rows.writerow(COLUMNS)
        for voice, prompts in source.voices():
            spoken = minutes.setdefault(voice.name, {})
            for prompt in prompts:
                split, length = split_of(prompt.key), len(prompt.samples)
                levels = to_int16(prompt.samples).tobytes()
                data.write(levels)
                digest.update(levels)
                rows.writerow((voice.name, prompt.key, split, offset, length))
                offset += length
                spoken[split] = spoken.get(split, 0.0) + length / SAMPLING_RATE / 60
    manifest = {
        "name": "prompts",
        "versions": source.versions,
        "licence": {v.package: v.licence for v in VOICES},
        "attribution": {v.package: v.credit for v in VOICES},
        "dropped": source.dropped,
        "minutes": {v: {s: round(m, 2) for s, m in by.items()} for v, by in minutes.items()},
        "bytes": 2 * offset,
        "sha256": digest.hexdigest(),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def split_of(key: str) -> str:
    """The split of a prompt: 80 % train, 10 % validation, 10 % test, the same for all voices."""
    u = hash_fraction(PREFIX, key)
    return "train" if u < 0.8 else "validation" if u < 0.9 else "test"
