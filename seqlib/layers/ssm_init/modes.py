# SPDX-License-Identifier: Apache-2.0
"""The modes of a diagonalised system that a layer stores: one of each conjugate pair."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .hippo import Complex, Real, hippo, normal

LEAST_DECAY = 1e-4  # of a mode that a layer starts from


@dataclass(frozen=True)
class Modes:
    """M of the n modes of `x' = A x + b u`, such that `y = 2 Re sum(weight * C V * x)`.

    Attributes:
        lam: [M] complex eigenvalues; of a real system those with Im >= 0, the largest first.
        V: [n, M] their eigenvectors as columns.
        Vinv: [M, n] the same rows of V^-1.
        B: [M] Vinv b.
        weight: [M] 1 for a mode that stands for a conjugate pair, 1/2 for one that stands for
            itself (a real eigenvalue, or any of a complex system), whose part would count twice.
    """

    lam: Complex
    V: Complex
    Vinv: Complex
    B: Complex
    weight: Real

    def readout(self, c: Real | Complex) -> Complex:
        """What reads the modes as c [..., n] reads the states x = V modes: weight * (c V) [..., M].

        Exact for a real c, and for a complex one if no mode stands for a pair.
        """
        return self.weight * (c @ self.V)


def kept(lam: Complex, V: Complex, Vinv: Complex, b: Real, *, paired: bool) -> Modes:
    """Modes of an eigendecomposition sorted by `descending`, without the conjugates if paired."""
    keep = lam.imag >= 0 if paired else np.full(len(lam), True)
    weight = np.where(lam.imag[keep] > 0, 1.0, 0.5) if paired else np.full(len(lam), 0.5)
    return Modes(lam[keep], V[:, keep], Vinv[keep], Vinv[keep] @ b, weight)


def descending(lam: Complex) -> NDArray[np.intp]:
    """Indices that sort eigenvalues by falling |Im|, the upper one of a pair first."""
    return np.lexsort((lam.real, -lam.imag, -np.abs(lam.imag)))


def legs_eig(n: int) -> tuple[Complex, Complex, Complex]:
    """Eigenvalues -1/2 + i w, unitary eigenvectors V and V^-1 of the normal part of LegS.

    A Hermitian solver finds the conjugate pairs only up to rounding, so the upper half is mirrored.
    """
    w, vectors = np.linalg.eigh(-1j * (normal("legs", n) + 0.5 * np.eye(n)))
    upper, middle = vectors[:, n - n // 2 :], vectors[:, n // 2 : n - n // 2]
    V = np.concatenate((upper, np.real(middle / _phase(middle)), upper.conj()), axis=1).astype(
        np.complex128
    )
    w = np.concatenate((w[n - n // 2 :], np.zeros(n % 2), -w[n - n // 2 :]))
    lam = -0.5 + 1j * w
    order = descending(lam)
    V = V[:, order]
    return lam[order], V, V.conj().T


def _phase(vectors: Complex) -> Complex:
    """[1, k] unit phase of the largest entry of each column."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], axis=0)
    return largest / np.abs(largest)


def legs_modes(n: int, *, paired: bool = True) -> Modes:
    """Modes of the normal part of LegS with its input vector b.

    Raises:
        ValueError: n < 1.
    """
    return kept(*legs_eig(n), hippo("legs", n)[1], paired=paired)
