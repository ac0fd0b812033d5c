# SPDX-License-Identifier: Apache-2.0
"""S4's kernel of the full HiPPO matrix, diagonal plus low rank; for comparison only."""

import numpy as np

from .hippo import Complex, Real, hippo, low_rank
from .modes import legs_eig


def dplr_kernel(c: Real, dt: float, length: int) -> Real:
    """`K[t] = c A_bar^t B_bar` of LegS by its truncated generating function at roots of unity.

    With `r_k(z) = dt / ((1 - z) - (1 + z) dt lam_k / 2)` and g = (1 + z) / 2 the bilinear resolvent
    of A = normal - p p^T is `R_cb - R_cp g R_pb / (1 + g R_pp)`, R_xy = sum_k x_k y_k r_k. This
    form is finite at z = -1, where the usual one divides 0 by 0.

    Args:
        c: [n] real readout.
        dt: step size of the bilinear rule.
        length: L.

    Returns:
        [L] float64.

    Source: arXiv 2111.00396, algorithm 1.
    """
    n = len(c)
    A, b = hippo("legs", n)
    lam, V, Vinv = legs_eig(n)
    p, eye = low_rank("legs", n)[0], np.eye(n)
    A_bar = np.linalg.solve(eye - dt / 2 * A, eye + dt / 2 * A)
    c = c @ (eye - np.linalg.matrix_power(A_bar, length))
    z = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    r = dt / ((1 - z) - (1 + z) * (dt / 2 * lam[:, None]))  # [n, W]
    g = (1 + z) / 2

    def R(x: Real, y: Real) -> Complex:
        return ((x @ V) * (Vinv @ y)) @ r

    spectrum = R(c, b) - R(c, p) * g * R(p, b) / (1 + g * R(p, p))
    return np.fft.irfft(spectrum, length)
