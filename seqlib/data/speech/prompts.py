# SPDX-License-Identifier: Apache-2.0
"""Recorded voices from Debian packages: telephone prompts and read sentences, cleaned."""

import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ...audio import AudioError, audio_info, read_audio
from ..debian import fetch_package, package_of
from .mixing import trim

logger = logging.getLogger(__name__)

SAMPLING_RATE = 8000
MIN_SECONDS = 0.3
LONG_SECONDS, LONG_RATIO = 2.0, 3.0  # a prompt beyond both, against other voices, is misplaced
NOT_SPEECH = {"ascending-2tone", "beep", "beeperr", "descending-2tone", "tt-monkeys"}
SOUNDS = "usr/share/asterisk/sounds"


@dataclass(frozen=True)
class Voice:
    """One speaker in one language.

    Attributes:
        name: what lists call it.
        person: who speaks; two voices of one person are never mixed.
        sex: "f" or "m".
        language: code of the language.
        package: the Debian package that carries it.
        folder: of its files below the root.
        key: what stands before a file's name in its key.
        licence, credit: its terms, and whom it is to be attributed to.
    """

    name: str
    person: str
    sex: str
    language: str
    package: str
    folder: str
    key: str
    licence: str
    credit: str


VOICES = (
    Voice(
        "allison-en", "allison", "f", "en", "asterisk-core-sounds-en-wav",
        f"{SOUNDS}/en_US_f_Allison", "", "CC-BY-SA-3.0", "Allison Smith, Digium",
    ),
    Voice(
        "allison-es", "allison", "f", "es", "asterisk-core-sounds-es-wav",
        f"{SOUNDS}/es_MX_f_Allison", "", "CC-BY-SA-3.0", "Allison Smith, Digium",
    ),
    Voice(
        "june", "june", "f", "fr", "asterisk-core-sounds-fr-wav",
        f"{SOUNDS}/fr_CA_f_June", "", "CC-BY-SA-3.0", "June Wallack, Digium",
    ),
    Voice(
        "carlo", "carlo", "m", "it", "asterisk-core-sounds-it-wav",
        f"{SOUNDS}/it_IT_m_Carlo", "", "CC-BY-3.0", "Carlo Flora",
    ),
    Voice(
        "ivrvoice", "ivrvoice", "f", "ru", "asterisk-core-sounds-ru-wav",
        f"{SOUNDS}/ru_RU_f_IvrvoiceRU", "", "CC-BY-3.0", "Maxim Topal, ivrvoice.ru",
    ),
    Voice(
        "menardi", "menardi", "f", "it", "asterisk-prompt-it-menardi-wav",
        f"{SOUNDS}/it_IT_f_Menardi", "", "CC-BY-SA-3.0-IT",
        "Menardi, Dal Zot, voip.ammdomus.it",
    ),
    Voice(
        "nsh", "nsh", "m", "ru", "festvox-ru",
        "usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav", "festvox-ru/", "BSD-like",
        "Nickolay Shmyrev 2005",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """One utterance of a voice: its key, the same for all voices that say it, and its samples.

    `samples` is [T] float32 at 8,000 per second, without silence at the ends.
    """

    key: str
    samples: np.ndarray


class PromptSource:
    """The seven voices, found on this machine or fetched; read with `voice(v)`.

    Attributes:
        versions: of the packages.
        dropped: files left out and why.

    Raises:
        ValueError: packages are missing and `fetch` is off; the message names them.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, fetch: bool):
        self.root = Path(path or "/").absolute()
        self.fetch = fetch
        self.versions: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        missing = [v.package for v in VOICES if not (self.root / v.folder).is_dir()]
        if missing and not fetch:
            raise ValueError(
                f"the prompts need the Debian packages {', '.join(missing)}: install them, or "
                "allow the download with fetch=True (--fetch)"
            )

    def voices(self) -> Iterator[tuple[Voice, list[Prompt]]]:
        """Each voice with its prompts in the order of their keys.

        Raises:
            AudioError: a file that is damaged, not mono, or of another rate than its voice.
            RuntimeError: a download failed.
        """
        with tempfile.TemporaryDirectory(prefix="seqlib-") as scratch:
            found = {v: self._find(v, Path(scratch)) for v in VOICES}
            recorded = {v: self._read(v, folder) for v, folder in found.items()}
            durations = defaultdict(list)
            for prompts in recorded.values():
                for prompt in prompts:
                    durations[prompt.key].append(len(prompt.samples))
            for voice, prompts in recorded.items():
                yield voice, [p for p in prompts if not self._misplaced(voice, p, durations)]

    def _find(self, voice: Voice, scratch: Path) -> Path:
        folder = self.root / voice.folder
        if folder.is_dir():
            owner = package_of(next(folder.rglob("*.wav"), folder))
            self.versions[voice.package] = owner[1] if owner else "unknown"
            return folder
        self.versions[voice.package] = fetch_package(voice.package, scratch / voice.package)
        return scratch / voice.package / voice.folder

    def _read(self, voice: Voice, folder: Path) -> list[Prompt]:
        logger.info("reading the voice %s", voice.name)
        prompts = []
        for file in sorted(folder.rglob("*.wav")):
            key = voice.key + file.relative_to(folder).with_suffix("").as_posix()
            if key in NOT_SPEECH or key.startswith("silence/"):
                continue
            samples = np.zeros(0, np.float32)
            if audio_info(file).frames:  # the packages hold an empty file
                samples = trim(read_audio(file, SAMPLING_RATE, resample=True), SAMPLING_RATE)
            if len(samples) < MIN_SECONDS * SAMPLING_RATE:
                self.dropped[f"{voice.name}/{key}"] = f"shorter than {MIN_SECONDS} s"
            else:
                prompts.append(Prompt(key, samples))
        if not prompts:
            raise AudioError(f"{folder} must hold the voice {voice.name}, it has no speech")
        return prompts

    def _misplaced(self, voice: Voice, prompt: Prompt, durations: dict[str, list[int]]) -> bool:
        """Whether a prompt lasts so long that it can't be the sentence the others say."""
        length, others = len(prompt.samples), list(durations[prompt.key])
        others.remove(length)
        wrong = (
            length > LONG_SECONDS * SAMPLING_RATE
            and bool(others)
            and length > LONG_RATIO * median(others)
        )
        if wrong:
            self.dropped[f"{voice.name}/{prompt.key}"] = "longer than three times the other voices"
        return wrong
