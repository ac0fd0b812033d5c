# SPDX-License-Identifier: Apache-2.0
"""The one door to mixtures of speech."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...audio import AudioError
from ..cache import cache_root
from .dataset import ListedMixtures, MixtureDataset
from .dynamic import PromptMixtures
from .fixed_sets import NAMES as PROMPTS
from .fixed_sets import open_prompts_2mix
from .items import MixtureItem, check_speakers
from .layouts import libri_mix, wham, whamr, wsj0_mix
from .prompt_store import PromptStore
from .prompts import SAMPLING_RATE

logger = logging.getLogger(__name__)

CHECKED = 3  # items of each set whose sum is looked at
READERS: dict[str, tuple[int, Callable[..., list[MixtureItem]]]] = {
    "wsj0-2mix": (2, wsj0_mix),
    "wsj0-3mix": (3, partial(wsj0_mix, num_speakers=3)),
    "libri2mix": (2, libri_mix),
    "libri3mix": (3, partial(libri_mix, num_speakers=3)),
    "libri2mix-noisy": (2, partial(libri_mix, kind="both")),
    "wham": (2, wham),
    "whamr": (2, whamr),
}
NAMES = (*PROMPTS, *READERS)


@dataclass(frozen=True)
class SpeechData:
    """Mixtures by set, and what to train on.

    Attributes:
        name: of the data.
        sampling_rate: of every file.
        num_speakers: in every mixture.
        sets: items by name; those to train on are "train" unless they are made on the fly.
        manifest: what belongs beside every score.
        store: the prompts that training mixtures are made of, for `prompts-2mix`.
        across_sexes: whether they are of a man and a woman each.
    """

    name: str
    sampling_rate: int
    num_speakers: int
    sets: Mapping[str, list[MixtureItem]]
    manifest: Mapping[str, Any]
    store: PromptStore | None = None
    across_sexes: bool = False

    def train(
        self,
        *,
        seconds: float | None = 4.0,
        size: int | None = None,
        speed_perturbation: bool = False,
        seed: int = 0,
    ) -> MixtureDataset:
        """What to train on, in windows; bad files are reported and counted.

        Args:
            seconds: length of the windows; None gives whole mixtures.
            size: mixtures in an epoch of `prompts-2mix`, 5,000 when None.
            speed_perturbation: change the speed of each source, and so its pitch.
            seed: of all that is drawn.

        Raises:
            ValueError: an argument that does not go with this data.
        """
        if self.store is not None:
            sizes = {} if size is None else {"size": size}
            return PromptMixtures(
                self.store,
                across_sexes=self.across_sexes,
                seconds=seconds,
                speed_perturbation=speed_perturbation,
                seed=seed,
                **sizes,
            )
        if size is not None:
            raise ValueError(f"size goes with {' and '.join(PROMPTS)}, not with {self.name}")
        return ListedMixtures(
            self.sets["train"],
            num_speakers=self.num_speakers,
            sampling_rate=self.sampling_rate,
            seconds=seconds,
            speed_perturbation=speed_perturbation,
            seed=seed,
        )

    def fixed(self, name: str) -> ListedMixtures:
        """Whole mixtures of a set, in order; a bad file raises AudioError.

        Raises:
            ValueError: an unknown set.
        """
        if name not in self.sets:
            raise ValueError(f"set must be one of {', '.join(self.sets)}, got {name!r}")
        return ListedMixtures(
            self.sets[name],
            num_speakers=self.num_speakers,
            sampling_rate=self.sampling_rate,
            strict=True,
        )


def load_speech(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    sampling_rate: int = 8000,
    mode: str = "min",
    fetch: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> SpeechData:
    """Mixtures by name.

    Args:
        name: "prompts-2mix" or "prompts-2mix-mf" (recorded voices of Debian packages, prepared
            once into the cache), or a corpus that you have: "wsj0-2mix", "wsj0-3mix",
            "libri2mix", "libri3mix", "libri2mix-noisy", "wham", "whamr".
        root: the folder of the corpus; for prompts that into which the packages were unpacked,
            / when None. Each has a place of its own in the cache.
        sampling_rate, mode: which variant of the corpus; prompts have 8,000 and "min" alone.
        fetch: let prompts download the Debian packages that are not installed.
        cache_dir: where prepared data lives; `$SEQLIB_DATA`, then ~/.cache/seqlib by default.

    Raises:
        ValueError: an unknown name, a root that is missing or lacks a folder, files that can't
            be used.
        OSError: the cache can't be written.
    """
    if name in PROMPTS:
        if (sampling_rate, mode) != (SAMPLING_RATE, "min"):
            raise ValueError(
                f"{name} must have sampling_rate={SAMPLING_RATE} and mode='min', "
                f"got {sampling_rate} and {mode!r}"
            )
        data = open_prompts_2mix(cache_root(cache_dir), name, path=root, fetch=fetch)
        return SpeechData(
            name, SAMPLING_RATE, 2, data.sets, data.manifest, data.store, data.across_sexes
        )
    if name not in READERS:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if root is None:
        raise ValueError(f"{name} needs root, the folder of the corpus, got None")
    num_speakers, reader = READERS[name]
    sets = {
        subset: reader(root, subset, sampling_rate=sampling_rate, mode=mode)
        for subset in ("train", "validation", "test")
    }
    for items in sets.values():
        check_speakers(items, num_speakers)
        _check_sums(items[:CHECKED], sampling_rate)
    manifest = {"name": name, "sets": {s: {"mixtures": len(i)} for s, i in sets.items()}}
    return SpeechData(name, sampling_rate, num_speakers, sets, manifest)


def _check_sums(items: list[MixtureItem], sampling_rate: int) -> None:
    for item in items:
        try:
            item.check(sampling_rate)
        except AudioError as error:
            logger.warning("%s", error)
