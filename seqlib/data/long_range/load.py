# SPDX-License-Identifier: Apache-2.0
"""The one door to labelled long sequences."""

import os
from collections.abc import Sequence
from functools import partial

from seqlib.mixers.names import unknown_name

from ..cache import cache_root
from .digits import digits
from .generated import GENERATORS, open_or_generate
from .sequences import SequenceData

REAL = {"digits": digits, "digits-permuted": partial(digits, permuted=True)}
NAMES = (*GENERATORS, *REAL)


def load_sequences(
    name: str,
    *,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> SequenceData:
    """A data set by name.

    Generated ones are made once into the cache directory and opened from there afterwards;
    several processes may ask for one at the same time.

    Args:
        name: "listops" as in the Long Range Arena, "listops-s" with short expressions,
            "pathfinder-32", "pathfinder-64" or "pathfinder-128" by the side of the images,
            "digits" or "digits-permuted".
        sizes: of generated data: examples to train, to validate and to test on.
        seed: of generated data.
        cache_dir: where they live; `$SEQLIB_DATA`, then ~/.cache/seqlib by default.

    Raises:
        ImportError: the package that carries the data is missing.
        ValueError: an unknown name, or sizes for data that is not generated.
        OSError: the cache can't be written.
    """
    if name in GENERATORS:
        return open_or_generate(cache_root(cache_dir), name, sizes, seed)
    if name not in REAL:
        raise unknown_name("task", name, NAMES)
    if sizes is not None:
        raise ValueError(f"sizes go with generated data, and {name} is not, got {list(sizes)}")
    return REAL[name]()
