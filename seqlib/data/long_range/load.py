# SPDX-License-Identifier: Apache-2.0
"""The one door to labelled long sequences."""

import os
from collections.abc import Sequence
from functools import partial

from seqlib.mixers.names import unknown_name

from ..cache import cache_root
from ..hub import licence
from .digits import digits
from .generated import GENERATORS, open_or_generate
from .sequences import SequenceData
from .user_data import user_sequences
from .user_rows import Columns, rows_of_files, rows_of_hub

REAL = {"digits": digits, "digits-permuted": partial(digits, permuted=True)}
NAMES = (*GENERATORS, *REAL)


def load_sequences(
    name: str | None = None,
    *,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    train_files: Sequence[str] | None = None,
    validation_files: Sequence[str] | None = None,
    test_files: Sequence[str] | None = None,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    columns: Columns | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> SequenceData:
    """A data set by name, from the user's files or from a Hugging Face data set.

    Generated ones are made once into the cache directory and opened from there afterwards;
    several processes may ask for one at the same time.

    Args:
        name: "listops" as in the Long Range Arena, "listops-s" with short expressions,
            "pathfinder-32", "pathfinder-64" or "pathfinder-128" by the side of the images,
            "digits" or "digits-permuted".
        sizes: of generated data: examples to train, to validate and to test on.
        seed: of generated data.
        train_files: paths, globs or folders instead of `name`: JSON lines, npz files, or images
            in a folder per class.
        validation_files, test_files: the same for the other splits; a tenth of the training rows
            is held out for validation when there are no `validation_files`.
        dataset_name: a data set name or local folder for `datasets` instead of `name`.
        dataset_config: its configuration.
        columns: where files and data sets hold what.
        cache_dir: where generated data lives; `$SEQLIB_DATA`, then ~/.cache/seqlib by default.

    Raises:
        ImportError: the package that carries the data is missing.
        ValueError: not exactly one source, an unknown name, or data that can't be used.
        OSError: the cache can't be written.
    """
    sources = {"name": name, "train_files": train_files, "dataset_name": dataset_name}
    given = [f"{k}={v!r}" for k, v in sources.items() if v is not None]
    if len(given) != 1:
        raise ValueError(
            "exactly one of name, train_files and dataset_name must be given, "
            f"got {', '.join(given) or 'none'}"
        )
    others = {"validation": validation_files, "test": test_files}
    if train_files is None and (named := [f"{k}_files" for k, v in others.items() if v]):
        raise ValueError(f"{named[0]} goes with train_files, got {given[0]}")
    columns = columns or Columns()
    if train_files is not None:
        files = {"train": train_files, **{k: v for k, v in others.items() if v}}
        rows = {k: rows_of_files(f"{k}_files", v, columns) for k, v in files.items()}
        return user_sequences("files", rows, columns, licence="that of the files")
    if dataset_name is not None:
        rows, tables = rows_of_hub(dataset_name, dataset_config, columns)
        return user_sequences(dataset_name, rows, columns, licence=licence(tables))
    if name in GENERATORS:
        return open_or_generate(cache_root(cache_dir), name, sizes, seed)
    if name not in REAL:
        raise unknown_name("task", name, NAMES)
    if sizes is not None:
        raise ValueError(f"sizes go with generated data, and {name} is not, got {list(sizes)}")
    return REAL[name]()
