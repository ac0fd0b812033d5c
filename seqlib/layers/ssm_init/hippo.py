# SPDX-License-Identifier: Apache-2.0
"""HiPPO matrices, and the low-rank correction that makes them normal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.floating[Any]]
Complex = NDArray[np.complexfloating[Any, Any]]

NAMES = ("legs", "legt", "fout")


def hippo(name: str, n: int) -> tuple[Real, Real]:
    """State matrix and input vector of `x' = A x + B u` that keeps u in n coefficients.

    Args:
        name: "legs" (scaled Legendre: all of the past), "legt" (translated Legendre: a window of
            it) or "fout" (truncated Fourier).
        n: number of coefficients.

    Returns:
        A: [n, n] float64.
        B: [n] float64.

    Raises:
        ValueError: an unknown name, or n < 1.

    Sources: arXiv 2008.07669, 2206.12037.
    """
    _check(name, n)
    i = np.arange(n)
    root = np.sqrt(2 * i + 1.0)
    if name == "legs":
        return -np.tril(np.outer(root, root), -1) - np.diag(i + 1.0), root
    if name == "legt":
        signs = np.where(i[:, None] < i, (-1.0) ** (i[:, None] - i), 1.0)
        return -0.5 * np.outer(root, root) * signs, 0.5 * root
    between = np.pi * np.where(i[1:] % 2 == 1, i[:-1] // 2, 0)
    B = np.where(i % 2 == 0, np.sqrt(2.0), 0.0)
    B[0] = 1.0
    return np.diag(between, -1) - np.diag(between, 1) - np.outer(B, B), B


def low_rank(name: str, n: int) -> Real:
    """P [r, n] with r = 1, 2 for legt: `A + P^T P` is a multiple of I plus a skew matrix.

    Raises:
        ValueError: an unknown name, or n < 1.
    """
    _check(name, n)
    i = np.arange(n)
    if name == "legs":
        return np.sqrt(i + 0.5)[None]
    if name == "legt":
        return np.where(i % 2 == np.array([[1], [0]]), np.sqrt(i + 0.5), 0.0)
    return hippo(name, n)[1][None]


def normal(name: str, n: int) -> Real:
    """[n, n] the normal part `A + P^T P`: -I/2 plus a skew matrix for legs, skew for the others.

    Raises:
        ValueError: an unknown name, or n < 1.
    """
    P = low_rank(name, n)
    return hippo(name, n)[0] + P.T @ P


def check_size(n: int) -> None:
    """Raise unless n is a number of states."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, got {n!r}")


def _check(name: str, n: int) -> None:
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    check_size(n)
