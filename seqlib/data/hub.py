# SPDX-License-Identifier: Apache-2.0
"""A data set by its Hugging Face name, or a local folder that `datasets` can load."""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from .corpus import Document, Preparation
from .splits import hash_split, text_key

VERSION = "hub-v1"
VALIDATION = ("validation", "valid", "val", "dev")  # what others call that split


def hub_dataset(name: str, config: str | None, text_column: str) -> Preparation:
    """The texts in `text_column` of every split of a data set.

    Splits called train, validation (or valid, val, dev) and test are kept; what is missing beside
    train is taken from it by the hash of each row's text, so that copies stay together.

    Raises:
        ImportError: the package `datasets` is missing.
        ValueError: the data set can't be loaded, has no train split or no such column of text.
    """
    loaded = load_splits(name, config)
    for split, rows in loaded.items():
        if text_column not in rows.column_names:
            raise ValueError(
                f"text_column {text_column!r} is not in the {split} split of {name!r}, "
                f"it has {', '.join(rows.column_names)}"
            )
        kind = getattr(rows.features[text_column], "dtype", "nested")
        if kind not in ("string", "large_string"):
            raise ValueError(
                f"text_column {text_column!r} of {name!r} must hold text, its {split} split holds "
                f"values of type {kind}"
            )
    validation = next((split for split in VALIDATION if split in loaded), None)

    def documents() -> Iterator[Document]:
        for text in loaded["train"][text_column]:
            split = hash_split(VERSION, text_key(text or ""))
            if (split == "validation" and validation) or (split == "test" and "test" in loaded):
                split = "train"
            yield Document(split, text or "")
        for source, split in ((validation, "validation"), ("test", "test")):
            for text in loaded[source][text_column] if source in loaded else ():
                yield Document(split, text or "")

    fingerprints = {split: rows._fingerprint for split, rows in loaded.items()}
    key = hashlib.sha256(repr((name, config, text_column, fingerprints)).encode()).hexdigest()
    return Preparation(
        name=f"dataset {name}",
        folder=f"{VERSION}-{key[:16]}",
        documents=documents,
        about={"versions": {"datasets": version("datasets")}, "licence": licence(loaded)},
    )


def load_splits(name: str, config: str | None) -> Any:
    """What `datasets` loads under a name: tables by split, train among them.

    Raises:
        ImportError: the package `datasets` is missing.
        ValueError: the data set can't be loaded or has no train split.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"dataset_name={name!r} needs the package datasets: pip install 'seqlib[data]'"
        ) from error
    try:
        loaded: Any = datasets.load_dataset(name, config)
    except Exception as error:  # damaged files raise whatever their reader raises
        raise ValueError(f"dataset_name {name!r} cannot be loaded: {_reason(error)}") from error
    if "train" not in loaded:
        raise ValueError(f"dataset_name {name!r} has no train split, it has {', '.join(loaded)}")
    return loaded


def _reason(error: BaseException) -> str:
    """What went wrong first: `datasets` wraps it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def licence(loaded: Any) -> str:
    return loaded["train"].info.license or "see the data set's card"
