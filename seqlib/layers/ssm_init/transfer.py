# SPDX-License-Identifier: Apache-2.0
"""Transfer functions on the imaginary axis: what diagonalising HiPPO-LegS loses, and where."""

import numpy as np

from .hippo import Complex, Real, check_size
from .s4d import s4d


def phi(n: int, omega: Real) -> Complex:
    """`s / (s + n) prod_{0<j<n} (s - j) / (s + j)` at s = i omega, of modulus below 1.

    For every readout HiPPO-LegS is S4D-LegS (with B / 2) times 1 + phi: the latter has a spike
    wherever phi comes near -1.
    """
    check_size(n)
    s = 1j * np.asarray(omega, dtype=np.float64)
    j = np.arange(1, n)
    return s / (s + n) * ((s[..., None] - j) / (s[..., None] + j)).prod(-1)


def transfer_hippo(n: int, omega: Real) -> Complex:
    """`c (s - A)^-1 b` of LegS for c = b / n and b of norm 1 at s = i omega."""
    return (1 - phi(n, omega)) / n**2


def transfer_diagonal(n: int, omega: Real) -> Complex:
    """The same of S4D-LegS: only the normal part of A, and half of b."""
    value = phi(n, omega)
    return (1 - value) / (1 + value) / n**2


def transfer_modes(lam: Complex, residue: Complex, omega: Real) -> Complex:
    """`sum_k residue_k / (i omega - lam_k)` over all modes, at every omega."""
    return (residue / (1j * np.asarray(omega)[..., None] - lam)).sum(-1)


def last_spike(n: int) -> float:
    """The highest frequency where S4D-LegS has a spike, about n^2 / pi.

    Raises:
        ValueError: n < 1, or an odd n.
    """
    return float(s4d("legs", n)[0].imag.max())


def frequencies(lam: Complex, low: float = 1e-2, high: float = 1e7) -> Real:
    """Ascending frequencies over [low, high] that miss no resonance of the modes lam."""
    wide = np.geomspace(low, high, 600)
    near = lam.imag + np.abs(lam.real) * np.linspace(-4, 4, 161)[:, None]
    near = near[(near > low) & (near < high)]
    return np.unique(np.concatenate((wide, near)))


def legs_states(n: int, omega: Real) -> Complex:
    """`(i omega - A)^-1 b` of LegS, [W, n]: what every readout reads at every frequency.

    A is lower triangular: state k is `sqrt(2k+1) / (s + k + 1) prod_{j<k} (s - j) / (s + j + 1)`.
    """
    check_size(n)
    s = 1j * np.asarray(omega, dtype=np.float64)[:, None]
    k = np.arange(n)
    steps = (s - k) / (s + k + 1)
    left = np.cumprod(np.concatenate((np.ones_like(s), steps[:, :-1]), axis=1), axis=1)
    return np.sqrt(2 * k + 1) / (s + k + 1) * left


def modal_states(lam: Complex, V: Complex, B: Complex, omega: Real) -> Complex:
    """The same of `V diag(lam) V^-1` with B = V^-1 b [n], all n modes."""
    return (B / (1j * np.asarray(omega)[:, None] - lam)) @ V.T


def worst_deviation(lam: Complex, V: Complex, B: Complex, omega: Real) -> float:
    """The largest difference to LegS in `c x` over readouts c and inputs b of norm 1, and omega.

    Args:
        lam, V, B: [n], [n, n], [n] the other system with all its modes: `B = V^-1 b`, for S4D half
            of it.
        omega: [W] where to look.
    """
    n = len(lam)
    gap = modal_states(lam, V, B, omega) - legs_states(n, omega)
    return float(np.linalg.norm(gap, axis=-1).max() / n)
