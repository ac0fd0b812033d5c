# SPDX-License-Identifier: Apache-2.0
"""Generated data sets in the cache: made once, example by example, each from its own stream."""

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..cache import atomic_directory, check_size, read_about
from ..state_tracking import stream
from .listops import TOKENS, ListOps
from .pathfinder import Pathfinder
from .sequences import SPLITS, Form, SequenceData, Sequences, described

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VERSION = "v1"

# from a stream and the number of the example to its steps and its label
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Generator:
    """How a data set is generated.

    Attributes:
        form: of its sequences.
        draw: makes one example; numbers alone tell examples apart.
        sizes: how many there are by default to train on, to validate on and to test on.
    """

    form: Form
    draw: Draw
    sizes: tuple[int, int, int]


def _listops(settings: ListOps, sizes: tuple[int, int, int]) -> Generator:
    form = Form(num_classes=10, length=settings.length, vocab_size=len(TOKENS))
    return Generator(form, lambda random, _: settings.example(random), sizes)


def _pathfinder(size: int) -> Generator:
    def draw(random: np.random.Generator, i: int) -> tuple[np.ndarray, int]:
        return Pathfinder(size).example(random, bool(i % 2)).reshape(-1, 1), i % 2

    form = Form(num_classes=2, length=size**2, features=1, scale=2 / 255, shift=-1.0)
    return Generator(form, draw, (20_000, 2_000, 2_000))


GENERATORS = {
    "listops": _listops(ListOps(), (96_000, 2_000, 2_000)),
    "listops-s": _listops(
        ListOps(max_depth=6, max_args=5, longer_than=20, shorter_than=128), (20_000, 2_000, 2_000)
    ),
    "pathfinder-32": _pathfinder(32),
    "pathfinder-64": _pathfinder(64),
    "pathfinder-128": _pathfinder(128),
}


def open_or_generate(
    root: Path, name: str, sizes: Sequence[int] | None = None, seed: int = 0
) -> SequenceData:
    """A data set of `GENERATORS` from the cache below `root`, made first when it is not there.

    Example i of a split comes from (seed, name, split, i) alone; one that was drawn before, in
    whatever split, is drawn again. Hence a shorter set is the beginning of a longer one.

    Args:
        sizes: examples to train on, to validate on and to test on.

    Raises:
        ValueError: not three positive sizes, or the cached files are damaged.
        OSError: the cache can't be written.
    """
    generator = GENERATORS[name]
    sizes = tuple(generator.sizes if sizes is None else sizes)
    if len(sizes) != len(SPLITS) or min(sizes) < 1:
        raise ValueError(
            f"sizes must be three positive numbers (to train, validate and test on), got {sizes}"
        )
    target = root / "-".join([name, VERSION, *map(str, sizes), str(seed)])
    if not (target / MANIFEST).is_file():
        logger.info("generating %s in %s", name, target)
        with atomic_directory(target) as scratch:
            _write(scratch, name, sizes, seed)
    return _open(target, generator.form)


def _write(folder: Path, name: str, sizes: Sequence[int], seed: int) -> None:
    generator, seen, splits, files = GENERATORS[name], set(), {}, {}
    bar = tqdm(
        total=sum(sizes),
        desc=name,
        unit="example",
        delay=2,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )
    for split, size in zip(SPLITS, sizes, strict=True):
        examples = []
        for example in _distinct(generator.draw, seen, (seed, name, split), size):
            examples.append(example)
            bar.update()
        steps = np.concatenate([found for found, _ in examples])
        starts = np.cumsum([0, *(len(found) for found, _ in examples)])
        labels = np.asarray([label for _, label in examples])
        splits[split] = Sequences(generator.form, steps, starts, labels)
        file = folder / f"{split}.npz"
        np.savez_compressed(file, steps=steps, starts=starts, labels=labels)
        files[split] = file.stat().st_size
    bar.close()
    manifest = described(generator.form, splits, name, seed=seed, licence="none: generated")
    about = {**manifest.manifest, "bytes": files}
    (folder / MANIFEST).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _distinct(
    draw: Draw, seen: set[bytes], key: tuple[int, str, str], size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Examples 0 to size - 1 of a split, none of which is in `seen`, where they are added."""
    for i in range(size):
        random = stream(*key, i)
        while True:
            steps, label = draw(random, i)
            content = hashlib.blake2b(steps.tobytes(), digest_size=16).digest()
            if content not in seen:
                break
        seen.add(content)
        yield steps, label


def _open(folder: Path, form: Form) -> SequenceData:
    manifest = read_about(folder / MANIFEST)
    splits = {}
    for split, size in manifest["bytes"].items():
        file = folder / f"{split}.npz"
        check_size(file, size)
        with np.load(file) as arrays:
            splits[split] = Sequences(form, arrays["steps"], arrays["starts"], arrays["labels"])
    return SequenceData(form, splits, manifest)
