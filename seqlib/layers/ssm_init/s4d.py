# SPDX-License-Identifier: Apache-2.0
"""S4D: diagonal state matrices given by formula."""

from collections.abc import Callable

import numpy as np

from .hippo import Complex, Real, check_size, normal
from .modes import LEAST_DECAY

COMBINED = {"diag": ("inv", "lin"), "hippo": ("legs", "fout")}


def s4d(init: str, n: int) -> tuple[Complex, Complex]:
    """Eigenvalues and input vector of one diagonal system of n states, kept as n / 2 modes.

    Args:
        init: "legs" (the normal part of HiPPO-LegS), "fout" (that of the Fourier matrix), "lin",
            "inv", "inv2", "quad" or "real" (not of conjugate pairs, read as if it were).
        n: number of states, even.

    Returns:
        lam: [n/2] complex128, Re < 0, Im >= 0.
        B: [n/2] complex128, real and positive: the phase of a mode is a matter of its readout.
            `B / 2` is what comes nearest to HiPPO for legs.

    Raises:
        ValueError: an unknown init, one that needs several copies, n < 1, or an odd n.

    Source: arXiv 2206.11893.
    """
    if init in COMBINED:
        raise ValueError(f"init {init!r} needs copies to divide among {COMBINED[init]}")
    if init not in _INITS:
        known = ", ".join((*_INITS, *COMBINED))
        raise ValueError(f"init must be one of {known}, got {init!r}")
    check_size(n)
    if n % 2:
        raise ValueError(f"n must be even to be kept as conjugate pairs, got {n}")
    decay, frequency, B = _INITS[init](n, np.arange(n / 2))
    lam = -decay + 1j * np.broadcast_to(frequency, n // 2)
    return lam, np.broadcast_to(B, n // 2).astype(complex)


def s4d_copies(init: str, n: int, copies: int) -> tuple[Complex, Complex]:
    """`s4d` for `copies` systems side by side; "diag" is half inv and half lin, "hippo" legs, fout.

    Returns:
        lam, B: [copies, n/2] complex128.

    Raises:
        ValueError: as `s4d`, or copies that can't be divided.
    """
    names = COMBINED.get(init, (init,))
    if copies < 1 or copies % len(names):
        raise ValueError(f"copies must be a multiple of {len(names)} for {init!r}, got {copies}")
    pairs = [s4d(name, n) for name in names]
    lam, B = (
        np.repeat(np.stack(part), copies // len(names), 0) for part in zip(*pairs, strict=True)
    )
    return lam, B


def _legs(n: int, k: Real) -> tuple[float, Real, Real]:
    """Without eigenvectors: |B_k|^2 is -4 / (d log phi / ds) at lam_k, a root of 1 + phi."""
    w = np.linalg.eigvalsh(-1j * (normal("legs", n) + 0.5 * np.eye(n)))[: -n // 2 - 1 : -1]
    lam, j = -0.5 + 1j * w, np.arange(1, n)
    slope = 1 / lam - 1 / (lam + n) + (2 * j / (lam[:, None] ** 2 - j**2)).sum(-1)
    return 0.5, w, np.sqrt((-4 / slope).real)


def _fout(n: int, k: Real) -> tuple[float, Real, Real]:
    """The first two states never turn and only one of them has an input: one mode of half its b."""
    return LEAST_DECAY, np.pi * k, np.where(k == 0, np.sqrt(0.5), 1.0)


# -Re lam, Im lam and B of the modes k = 0 ... n / 2 - 1.
_INITS: dict[str, Callable[[int, Real], tuple[float | Real, float | Real, float | Real]]] = {
    "legs": _legs,
    "fout": _fout,
    "lin": lambda n, k: (0.5, np.pi * k, 1.0),
    "inv": lambda n, k: (0.5, (n / np.pi) * (n / (2 * k + 1) - 1), 1.0),
    "inv2": lambda n, k: (0.5, (n / np.pi) * (n / (k + 1) - 1), 1.0),
    "quad": lambda n, k: (0.5, (2 * k + 1) ** 2 / np.pi, 1.0),
    "real": lambda n, k: (k + 1.0, 0.0, 1.0),
}
