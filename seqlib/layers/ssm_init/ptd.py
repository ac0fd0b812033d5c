# SPDX-License-Identifier: Apache-2.0
"""Perturb-then-diagonalise: HiPPO-LegS in modes, without the spikes of its normal part."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .hippo import Complex, Real, check_size, hippo
from .modes import LEAST_DECAY, Modes, descending, kept
from .optimise import GAMMA, perturbation

METHODS = ("optimise", "rank1", "ginibre", "file")
SUSPECT, USELESS = 1e3, 1e6  # condition numbers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PTD:
    """The eigendecomposition `A + E = V diag(lam) Vinv`, with A the LegS matrix.

    Attributes:
        lam: [n] complex128, by falling |Im|, the upper one of a pair first; Re <= -1e-4.
        V, Vinv: [n, n] complex128, unit columns in V.
        E: [n, n] the perturbation, float64 or complex128.
        kappa: condition number of V, in the 2-norm.
        rel_norm: |E|_2 / |A|_2.
        max_re_before_fix: largest real part of an eigenvalue of A + E.
    """

    lam: Complex
    V: Complex
    Vinv: Complex
    E: NDArray[np.float64 | np.complex128]
    kappa: float
    rel_norm: float
    max_re_before_fix: float

    def modes(self, *, paired: bool = True) -> Modes:
        """What a layer stores, with B = Vinv b; all n modes if not paired or if E is complex."""
        b = hippo("legs", len(self.lam))[1]
        paired = paired and not np.iscomplexobj(self.E)
        return kept(self.lam, self.V, self.Vinv, b, paired=paired)


def ptd_init(
    n: int,
    method: str = "optimise",
    *,
    theta: float = 0.2,
    gamma: float = GAMMA,
    seed: int = 0,
    ratio: float = 0.1,
    file: str | os.PathLike[str] | None = None,
    allow_unstable: bool = False,
) -> PTD:
    """Perturb the LegS matrix of n states and diagonalise it.

    Args:
        n: number of states.
        method: where E comes from. "optimise": the smallest for its condition number, stored with
            the package for n = 8, 16, 32, 64, 128 and the default gamma and seed (for n <= 2 there
            is none), searched else;
            "rank1": (theta/2) b b^T, always stable, with an error relative to HiPPO below
            theta / (1 - theta) at every frequency; "ginibre": Gaussian noise; "file".
        theta: of rank1, in (0, 1]; 1 has the eigenvalues of S4D-LegS.
        gamma: of optimise, the weight of the size of E.
        seed: of optimise and ginibre.
        ratio: of ginibre, |E|_2 / |A|_2.
        file: an .npy with E, or an .npz with an array of that name.
        allow_unstable: reflect eigenvalues of Re >= 0 to -Re, with a warning.

    Raises:
        ValueError: n < 1, an unknown method, theta outside (0, 1], gamma or ratio not positive,
            no file or one without a square finite [n, n] matrix, eigenvectors of condition above
            1e6 (from 1e3 on a warning), or an eigenvalue with Re >= 0 unless allow_unstable.

    Sources: arXiv 2310.01698; rank1 is a closed form of the same idea.
    """
    check_size(n)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "optimise":
        E = perturbation(n, gamma, seed)
    elif method == "rank1":
        E = _rank1(n, theta)
    elif method == "ginibre":
        E = ginibre(n, ratio, seed)
    else:
        E = _read(file, n)
    return perturbed(E, allow_unstable=allow_unstable)


def perturbed(E: ArrayLike, *, allow_unstable: bool = False) -> PTD:
    """Diagonalise LegS plus a given perturbation E [n, n], real or complex.

    Raises:
        ValueError: as `ptd_init` does for a matrix from a file.
    """
    matrix = np.array(E, dtype=np.complex128 if np.iscomplexobj(E) else np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"E must be a square matrix, got shape {matrix.shape}")
    if not (finite := np.isfinite(matrix)).all():
        raise ValueError(f"E must be finite, got {(~finite).sum()} entries that are not")
    A, _ = hippo("legs", len(matrix))
    lam, V = (part.astype(np.complex128) for part in np.linalg.eig(A + matrix))
    order = descending(lam)
    lam, V = lam[order], V[:, order]
    kappa = float(np.linalg.cond(V))
    if not kappa <= USELESS:
        raise ValueError(f"eigenvectors of A + E must have a condition <= 1e6, got {kappa:.3g}")
    if kappa > SUSPECT:
        logger.warning("eigenvectors of A + E have condition %.3g: expect rounding errors", kappa)
    highest = float(lam.real.max())
    if highest >= 0:
        if not allow_unstable:
            raise ValueError(
                f"A + E must be stable, got an eigenvalue with real part {highest:.3g}"
            )
        logger.warning("A + E has eigenvalues with real part up to %.3g: reflected", highest)
    lam = -np.maximum(np.abs(lam.real), LEAST_DECAY) + 1j * lam.imag
    rel_norm = float(np.linalg.norm(matrix, 2) / np.linalg.norm(A, 2))
    return PTD(lam, V, np.linalg.inv(V).astype(np.complex128), matrix, kappa, rel_norm, highest)


def _rank1(n: int, theta: float) -> Real:
    if not 0 < theta <= 1:
        raise ValueError(f"theta must be in (0, 1], got {theta}")
    b = hippo("legs", n)[1]
    return theta / 2 * np.outer(b, b)


def ginibre(n: int, ratio: float, seed: int) -> Real:
    """A Gaussian matrix [n, n] whose 2-norm is ratio times that of LegS.

    Raises:
        ValueError: ratio is not positive and finite.
    """
    if not 0 < ratio < float("inf"):
        raise ValueError(f"ratio must be positive and finite, got {ratio}")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, n, dtype=torch.float64, device="cpu", generator=generator).numpy()
    return noise * (ratio * np.linalg.norm(hippo("legs", n)[0], 2) / np.linalg.norm(noise, 2))


def _read(file: str | os.PathLike[str] | None, n: int) -> Real:
    if file is None:
        raise ValueError("file must name an .npy or .npz for method 'file', got None")
    loaded = np.load(Path(file), allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        with loaded:
            if "E" not in loaded:
                raise ValueError(f"file must hold an array E, got {list(loaded)} in {file}")
            loaded = loaded["E"]
    if loaded.shape != (n, n):
        raise ValueError(f"file must hold a square matrix ({n}, {n}), got {loaded.shape} in {file}")
    return loaded
