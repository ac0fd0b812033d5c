# SPDX-License-Identifier: Apache-2.0
"""The one door to every corpus: built in, from files, or from the Hub."""

import difflib
import os
from collections.abc import Callable, Sequence
from functools import partial

from .cache import cache_root
from .corpus import Corpus, Preparation, open_or_prepare
from .debdocs import debdocs
from .hub import hub_dataset
from .pystdlib import pystdlib
from .user_files import user_files

CORPORA: dict[str, Callable[..., Preparation]] = {
    "pystdlib": lambda **_: pystdlib(),
    "pystdlib-full": lambda **_: pystdlib(full=True),
    "debdocs": debdocs,
    "debdocs-s": partial(debdocs, small=True),
}


def load_corpus(
    name: str | None = None,
    *,
    train_files: Sequence[str] | None = None,
    validation_files: Sequence[str] | None = None,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    text_column: str = "text",
    path: str | os.PathLike[str] | None = None,
    fetch: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Corpus:
    """A corpus by name, from the user's files or from a Hugging Face data set.

    It is prepared once into the cache directory and opened from there afterwards; several
    processes may ask for it at the same time.

    Args:
        name: "pystdlib", "pystdlib-full", "debdocs" or "debdocs-s".
        train_files: paths, globs or directories of text files instead of `name`.
        validation_files: the same for validation, left out of the training files; 5 % of the
            training documents when None.
        dataset_name: a data set name or local folder for `datasets` instead of `name`.
        dataset_config: its configuration.
        text_column: where JSON lines and data sets hold the text.
        path: for "debdocs", the directory into which its packages were unpacked; / by default.
        fetch: let `debdocs` download the Debian packages that are not installed.
        cache_dir: where prepared data lives; `$SEQLIB_DATA`, then ~/.cache/seqlib by default.

    Raises:
        ValueError: not exactly one source, an unknown name, input that can't be used, or a
            source without training or validation documents.
        OSError: the cache can't be written.
    """
    given = [
        f"{k}={v!r}"
        for k, v in (("name", name), ("train_files", train_files), ("dataset_name", dataset_name))
        if v is not None
    ]
    if len(given) != 1:
        raise ValueError(
            f"exactly one of name, train_files and dataset_name must be given, "
            f"got {', '.join(given) or 'none'}"
        )
    if validation_files and not train_files:
        raise ValueError(f"validation_files goes with train_files, got {given[0]}")
    if path is not None and name not in ("debdocs", "debdocs-s"):
        raise ValueError(f"path goes with the name debdocs or debdocs-s, got {given[0]}")
    root = cache_root(cache_dir)
    if train_files is not None:
        preparation = user_files(train_files, validation_files, text_column)
    elif dataset_name is not None:
        preparation = hub_dataset(dataset_name, dataset_config, text_column)
    elif name in CORPORA:
        preparation = CORPORA[name](fetch=fetch, path=path)
    else:
        close = difflib.get_close_matches(str(name), CORPORA, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"name must be one of {', '.join(CORPORA)}, got {name!r}{hint}")
    return open_or_prepare(root, preparation)
