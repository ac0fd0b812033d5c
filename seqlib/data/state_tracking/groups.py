# SPDX-License-Identifier: Apache-2.0
"""Finite groups as multiplication tables."""

import functools
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from seqlib.mixers.names import unknown_name

GROUPS = ("Z2", "Z60", "S3", "S4", "A5", "S5")


@dataclass(frozen=True)
class Group:
    """Elements 0 .. order - 1, of which 0 is the identity.

    Attributes:
        name: a letter and a number: Z cyclic, S symmetric, A alternating.
        table: [order, order], table[a, b] = a after b.
        moved: [order], how many points each permutation moves; None for cyclic groups.
    """

    name: str
    table: np.ndarray
    moved: np.ndarray | None

    @property
    def order(self) -> int:
        return len(self.table)


@functools.cache
def group(name: str) -> Group:
    """A group of `GROUPS`.

    Permutations are numbered in the lexicographic order of their one-line notation, those of an
    alternating group as the even ones among them; cyclic groups by addition.

    Raises:
        ValueError: an unknown name; says which one may be meant.
    """
    if name not in GROUPS:
        raise unknown_name("group", name, GROUPS)
    kind, size = name[0], int(name[1:])
    if kind == "Z":
        elements = np.arange(size)
        return Group(name, (elements[:, None] + elements) % size, None)
    rows = np.asarray(list(permutations(range(size))))
    if kind == "A":
        rows = rows[[_is_even(row) for row in rows]]
    number = {row.tobytes(): i for i, row in enumerate(rows)}
    # a after b: point i goes to b[i], then to a[b[i]]
    table = np.asarray([[number[a[b].tobytes()] for b in rows] for a in rows])
    return Group(name, table, (rows != np.arange(size)).sum(1))


def _is_even(row: np.ndarray) -> bool:
    inversions = sum(row[i] > row[j] for j in range(len(row)) for i in range(j))
    return inversions % 2 == 0
