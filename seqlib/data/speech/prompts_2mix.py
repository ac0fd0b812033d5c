# SPDX-License-Identifier: Apache-2.0
"""Two recorded voices at a time in the manner of WSJ0-2mix: what is mixed with what."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .mixing import Mixture, change_speed, mix
from .prompt_store import PromptStore, Utterance
from .prompts import SAMPLING_RATE, VOICES
from .streams import stream

LEVELS = (0.0, 2.5)  # dB above and below the middle, so 0 to 5 between the speakers
TRAIN_MIXTURES = 5000  # an epoch
_SEEN = tuple(v.name for v in VOICES if v.person not in ("carlo", "menardi"))


@dataclass(frozen=True)
class FixedSet:
    """A set that is drawn once: its folder, voices, split (None: all prompts) and size."""

    folder: str
    voices: tuple[str, ...]
    split: str | None
    size: int


FIXED = {
    "validation": FixedSet("cv", _SEEN, "validation", 300),
    "test-seen": FixedSet("tt", _SEEN, "test", 500),
    "test-unseen": FixedSet("tt_unseen", ("carlo", "menardi"), None, 500),
}


@dataclass(frozen=True)
class Draw:
    """Which two utterances are mixed, and at which levels in dB."""

    utterances: tuple[Utterance, Utterance]
    gains: tuple[float, float]


class Drawer:
    """Draws mixtures of two persons from a list of utterances.

    All pairs of persons are equally likely, however much each of them has said: a voice that is in
    most of the mixtures would be told from others by its own colour alone.

    Args:
        store: where the prompts are.
        utterances: to choose from.
        across_sexes: only a man with a woman.

    Raises:
        ValueError: somebody has nobody to be mixed with.
    """

    def __init__(self, store: PromptStore, utterances: Sequence[Utterance], *, across_sexes: bool):
        self.store, self.utterances = store, list(utterances)
        said: dict[str, list[Utterance]] = {}
        sexes = {}
        for utterance in self.utterances:
            voice = store.voices[utterance.voice]
            said.setdefault(voice.person, []).append(utterance)
            sexes[voice.person] = voice.sex
        self._pairs = [
            (said[one], said[other])
            for one, other in combinations(said, 2)
            if not (across_sexes and sexes[one] == sexes[other])
        ]
        mixed = {id(utterances) for pair in self._pairs for utterances in pair}
        if alone := [person for person, own in said.items() if id(own) not in mixed]:
            raise ValueError(
                f"every voice needs another person to be mixed with, {alone[0]} has none"
            )

    @property
    def pairs(self) -> int:
        """How many pairs of utterances can be drawn."""
        return sum(len(one) * len(other) for one, other in self._pairs)

    def draw(self, rng: np.random.Generator) -> Draw:
        """Two persons in any order, an utterance of each, and a level between them."""
        pair = self._pairs[rng.integers(len(self._pairs))]
        one, other = (said[rng.integers(len(said))] for said in pair)
        if rng.random() < 0.5:
            one, other = other, one
        level = rng.uniform(*LEVELS)
        gains = (level, -level) if rng.random() < 0.5 else (-level, level)
        return Draw((one, other), gains)

    def mix(self, draw: Draw, speeds: tuple[int, int] = (100, 100)) -> Mixture:
        """The sound of a draw, each voice at a speed in percent, cut to the shorter utterance."""
        speech = [
            change_speed(self.store.speech(u), percent)
            for u, percent in zip(draw.utterances, speeds, strict=True)
        ]
        return mix(speech, draw.gains, SAMPLING_RATE)


def training_drawer(store: PromptStore, seed: int, epoch: int, *, across_sexes: bool) -> Drawer:
    """The drawer of one epoch; its utterances are joined anew in every epoch."""
    utterances = store.plan(_SEEN, "train", seed, "utterances", epoch)
    return Drawer(store, utterances, across_sexes=across_sexes)


def fixed_draws(store: PromptStore, name: str, *, across_sexes: bool) -> tuple[Drawer, list[Draw]]:
    """The drawer and the draws of a fixed set; no pair of utterances comes twice.

    Raises:
        ValueError: the prompts of the set are too few for its size.
    """
    fixed = FIXED[name]
    plan = store.plan(fixed.voices, fixed.split, 0, name)
    drawer = Drawer(store, plan, across_sexes=across_sexes)
    if drawer.pairs < fixed.size:
        raise ValueError(
            f"{name} needs {fixed.size} pairs of utterances, its prompts give {drawer.pairs}"
        )
    rng = stream(0, name, "draws")
    seen: dict[frozenset[Utterance], Draw] = {}
    while len(seen) < fixed.size:
        draw = drawer.draw(rng)
        seen.setdefault(frozenset(draw.utterances), draw)
    return drawer, list(seen.values())
