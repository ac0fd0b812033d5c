# SPDX-License-Identifier: Apache-2.0
"""Splits by a hash of each document's key: no order, version or random state can move one."""

import hashlib

SPLITS = ("train", "validation", "test")


def hash_fraction(prefix: str, key: str) -> float:
    """A number in [0, 1) that depends on `prefix` and `key` alone."""
    return int(_sha256(f"{prefix}:{key}")[:8], 16) / 2**32


def text_key(text: str) -> str:
    """The key of a document without a name: equal texts have equal keys, in whatever order."""
    return _sha256(text)


def hash_split(prefix: str, key: str) -> str:
    """The split of a document: 5 % validation, 5 % test, the rest train."""
    u = hash_fraction(prefix, key)
    return "validation" if u < 0.05 else "test" if u < 0.10 else "train"


def _sha256(text: str) -> str:
    # lone surrogates, in JSON or in file names that are not UTF-8, can't be encoded
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
