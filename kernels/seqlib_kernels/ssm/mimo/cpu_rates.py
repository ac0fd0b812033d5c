# SPDX-License-Identifier: Apache-2.0
"""The compiled loops for a step size per token: multipliers before the scan, gradients behind it.

Token t with rate r turns a state by psi(r z) and adds r phi(r z) w: z = dt A, and w is what B dt
projects. zoh: psi = e^x, phi = (e^x - 1) / x. bilinear: phi = 1 / (1 - x/2), psi = (1 + x/2) phi.
Work arrays are those of cpu_scan.py, and so is their division into jobs.
"""

import math

import numpy as np

from ..._core.rows import compile_kernel
from .cpu_scan import D_IMAG, D_REAL, GROUP, IMAG, LANES, REAL, TILE

_NEAR = 0.25  # |x| below which phi of zoh and its derivative are series: quotients cancel there
_SERIES = tuple(1 / math.factorial(k + 1) for k in range(14))  # the next term is below 1e-20


@compile_kernel
def spread(V, W, steps, z, rate, zoh, first, last):
    """steps = psi with a gradient of 0, and V = r phi W, for row tiles [first, last)."""
    for r in range(first * TILE, min(last * TILE, len(rate))):
        for j in range(len(z)):
            z_j, step, v, w = z[j], steps[r, j], V[r, j * GROUP :], W[r, j * GROUP :]
            for p in range(LANES):
                x = complex(rate[r] * z_j[REAL + p], rate[r] * z_j[IMAG + p])
                psi, phi, _, _ = _functions(x, zoh)
                added = rate[r] * phi * complex(w[REAL + p], w[IMAG + p])
                step[REAL + p], step[IMAG + p] = psi.real, psi.imag
                step[D_REAL + p] = step[D_IMAG + p] = 0.0
                v[REAL + p], v[IMAG + p] = added.real, added.imag


@compile_kernel
def gather(G, W, steps, z, rate, zoh, dz, drate, first, last):
    """From the gradients G of r phi W, and those of psi in `steps`, to those of z, r and W.

    G becomes that of W; dz [tiles, groups, GROUP] is summed within each of the tiles [first, last).
    """
    for tile in range(first, last):
        dz[tile] = 0
        for r in range(tile * TILE, min((tile + 1) * TILE, len(rate))):
            total = 0.0
            for j in range(len(z)):
                z_j, step, g, w = z[j], steps[r, j], G[r, j * GROUP :], W[r, j * GROUP :]
                dz_j = dz[tile, j]
                for p in range(LANES):
                    z_p = complex(z_j[REAL + p], z_j[IMAG + p])
                    _, phi, dpsi, dphi = _functions(rate[r] * z_p, zoh)
                    s = complex(g[REAL + p], g[IMAG + p])
                    at_gain = s * np.conj(complex(w[REAL + p], w[IMAG + p]))
                    at_psi = complex(step[D_REAL + p], step[D_IMAG + p])
                    at_x = np.conj(dpsi) * at_psi + rate[r] * np.conj(dphi) * at_gain
                    dz_j[REAL + p] += rate[r] * at_x.real
                    dz_j[IMAG + p] += rate[r] * at_x.imag
                    total += (np.conj(z_p) * at_x).real + (np.conj(phi) * at_gain).real
                    s = rate[r] * np.conj(phi) * s
                    g[REAL + p], g[IMAG + p] = s.real, s.imag
            drate[r] = total


@compile_kernel
def _functions(x, zoh):
    """psi, phi and their derivatives at x."""
    if not zoh:
        phi = 1 / (1 - x / 2)
        return (1 + x / 2) * phi, phi, phi * phi, phi * phi / 2
    size = math.exp(x.real)
    psi = complex(size * math.cos(x.imag), size * math.sin(x.imag))
    if x.real * x.real + x.imag * x.imag >= _NEAR * _NEAR:
        phi = (psi - 1) / x
        return psi, phi, psi, (psi - phi) / x
    phi = dphi = 0j
    for k in range(len(_SERIES) - 1, -1, -1):
        dphi = dphi * x + phi
        phi = phi * x + _SERIES[k]
    return psi, phi, psi, dphi
