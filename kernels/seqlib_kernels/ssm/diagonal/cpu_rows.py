# SPDX-License-Identifier: Apache-2.0
"""The work arrays of a job of `cpu_scan.py`: what they hold, and how they are filled.

Rows are LANES channels long, those past the job's last channel zero. A mode has a row of pairs for
each of the names below, real part first, imaginary part LANES further.

Inside a piece of time a state x goes as x / f with f = b, which needs no multiplication of the
input, and is read with g = c f instead of c; the gradient of the state goes divided by e = c*.
"""

import numpy as np

from ..._core.lowp import narrow, widen
from ..._core.rows import compile_kernel
from ..._core.vectors import load, store

LANES = 64  # channels of a job
PIECE = 32  # steps between two states that the forward pass keeps

# The multiplier, what the piece is read with, f and 1 / f, what a^n lost when `a` was rounded, the
# state; then e and 1 / e, and the gradient of the state.
A, G, F, F_INVERSE, GAP, X, E, E_INVERSE, DX = (2 * LANES * i for i in range(9))
MODE_ROWS = 9 * 2 * LANES
# Sums of a mode over time, without the factors: the gradients of a, b and c.
DA, DB, DC = (2 * LANES * i for i in range(3))
SUM_ROWS = 3 * 2 * LANES
# Rows of a step: the input, the output or its gradient, the gradient of the input.
U, Y, DU = (LANES * i for i in range(3))
STEP_ROWS = 3 * LANES

# A factor below the first times the state that it divides is taken to be that; one below the
# second, whose inverse float32 might not hold, to be zero.
_LEAST, _ZERO = 2.0**-40, 2.0**-100


@compile_kernel
def load_state(table, at, source, d0, d1):
    """Rows `at` of every mode from source [H, M, 2]."""
    _clear_padding(table, at, source.shape[1])
    for m in range(source.shape[1]):
        row = table[m]
        for d in range(d1 - d0):
            row[at + d] = source[d0 + d, m, 0]
            row[at + LANES + d] = source[d0 + d, m, 1]


@compile_kernel
def _clear_padding(table, at, modes):
    """Modes that fill up a sweep see the same inputs: a NaN must not stay in their states."""
    for m in range(modes, len(table)):
        table[m, at : at + 2 * LANES] = 0


@compile_kernel
def store_state(target, table, at, d0, d1):
    """Rows `at` of every mode into target [H, M, 2]."""
    for d in range(d1 - d0):
        for m in range(target.shape[1]):
            target[d0 + d, m, 0] = table[m, at + d]
            target[d0 + d, m, 1] = table[m, at + LANES + d]


@compile_kernel
def keep_state(target, table, at, d0, d1):
    """Rows `at` of every mode into target [M, 2, H]."""
    for m in range(target.shape[0]):
        for part in range(2):
            row, source = target[m, part, d0:d1], table[m, at + part * LANES :]
            for d in range(d1 - d0):
                row[d] = source[d]


@compile_kernel
def recall_state(table, at, source, d0, d1):
    """Rows `at` of every mode from source [M, 2, H]."""
    _clear_padding(table, at, source.shape[0])
    for m in range(source.shape[0]):
        for part in range(2):
            row, target = source[m, part, d0:d1], table[m, at + part * LANES :]
            for d in range(d1 - d0):
                target[d] = row[d]


@compile_kernel
def load_factors(table, at, x_at, source, sign, d0, d1):
    """f or e, which divide the state at `x_at`, and their inverses, from source [H, M, 2].

    `sign` is -1 for the conjugate.
    """
    for m in range(source.shape[1]):
        row = table[m]
        for d in range(d1 - d0):
            re, im = source[d0 + d, m, 0], sign * source[d0 + d, m, 1]
            size = max(abs(re), abs(im))
            least = _LEAST * max(abs(row[x_at + d]), abs(row[x_at + LANES + d]))
            if size < least:
                re, im, size = least, 0.0, least
            inverse = 0.0
            if size < _ZERO:
                re, im = 0.0, 0.0
            else:
                inverse = 1 / (re / size * re + im / size * im) / size
            row[at + d], row[at + LANES + d] = re, im
            row[at + 2 * LANES + d], row[at + 3 * LANES + d] = re * inverse, -im * inverse


@compile_kernel
def load_readout(table, at, source, sign, d0, d1):
    """g, the product of the factor at `at` and source [H, M, 2], or its conjugate."""
    for m in range(source.shape[1]):
        row = table[m]
        for d in range(d1 - d0):
            re, im = source[d0 + d, m, 0], sign * source[d0 + d, m, 1]
            fr, fi = row[at + d], row[at + LANES + d]
            row[G + d], row[G + LANES + d] = re * fr - im * fi, re * fi + im * fr


@compile_kernel
def load_gap(table, a, n, d0, d1):
    """a^n less the power of the rounded `a`."""
    for m in range(a.shape[1]):
        row = table[m]
        for d in range(d1 - d0):
            pr, pi = _power(a[d0 + d, m, 0], a[d0 + d, m, 1], n)
            qr, qi = _power(np.float64(row[A + d]), np.float64(row[A + LANES + d]), n)
            row[GAP + d], row[GAP + LANES + d] = pr - qr, pi - qi


@compile_kernel
def _power(re, im, n):
    pr, pi = 1.0, 0.0
    while n > 0:
        if n & 1:
            pr, pi = pr * re - pi * im, pr * im + pi * re
        re, im = re * re - im * im, 2 * re * im
        n >>= 1
    return pr, pi


@compile_kernel
def load_step(step, u, skip):
    """The input, and D u as the first part of the output."""
    for d in range(len(u)):
        x = widen(u[d])
        step[U + d] = x
        step[Y + d] = skip[d] * x


@compile_kernel
def load_step_back(step, u, dy, skip, dskip):
    """The input and the gradient of the output, and their shares in those of the input and D."""
    for d in range(len(u)):
        x, gradient = widen(u[d]), widen(dy[d])
        step[U + d] = x
        step[Y + d] = gradient
        step[DU + d] = skip[d] * gradient
        dskip[d] += np.float64(x) * gradient


@compile_kernel
def store_row(target, step, at):
    for d in range(len(target)):
        target[d] = narrow(step[at + d], target[d])


@compile_kernel
def add_sums(total, sums):
    """The sums of a piece, in float64 over pieces: a long sequence has thousands."""
    for d in range(len(sums)):
        total[d] += sums[d]


@compile_kernel
def add_gradients(da, db, dc, table, total, d0, d1):
    """The gradients [H, M, 2] of a sequence from its sums."""
    for m in range(da.shape[1]):
        row, t = table[m], total[m]
        for d in range(d1 - d0):
            fr, fi = np.float64(row[F + d]), -np.float64(row[F + LANES + d])
            er, ei = np.float64(row[E + d]), np.float64(row[E + LANES + d])
            re, im = t[DC + d], t[DC + LANES + d]
            dc[d0 + d, m, 0] += fr * re - fi * im
            dc[d0 + d, m, 1] += fr * im + fi * re
            re, im = t[DB + d], t[DB + LANES + d]
            db[d0 + d, m, 0] += er * re - ei * im
            db[d0 + d, m, 1] += er * im + ei * re
            re, im = t[DA + d], t[DA + LANES + d]
            re, im = er * re - ei * im, er * im + ei * re
            da[d0 + d, m, 0] += fr * re - fi * im
            da[d0 + d, m, 1] += fr * im + fi * re


@compile_kernel
def pair(row, at):
    """A vector of real parts and one of imaginary parts."""
    return load(row, at), load(row, at + LANES)


@compile_kernel
def times(row, at, xr, xi):
    """The product of the numbers at `at` and x."""
    fr, fi = pair(row, at)
    return fr * xr - fi * xi, fr * xi + fi * xr


@compile_kernel
def enter(row, v, x_at, inverse_at):
    """The state, or its gradient, as it goes through a piece."""
    xr, xi = pair(row, x_at + v)
    return times(row, inverse_at + v, xr, xi)


@compile_kernel
def leave(row, v, x_at, factor_at, xr, xi):
    """The state after a piece in the place of that before; what a^n lost is added."""
    yr, yi = times(row, factor_at + v, xr, xi)
    before_r, before_i = pair(row, x_at + v)
    lost_r, lost_i = times(row, GAP + v, before_r, before_i)
    store(row, x_at + v, yr + lost_r)
    store(row, x_at + LANES + v, yi + lost_i)


@compile_kernel
def leave_back(row, v, xr, xi):
    """The same for the gradient of the state, which the conjugate carries."""
    yr, yi = times(row, E + v, xr, xi)
    before_r, before_i = pair(row, DX + v)
    gap_r, gap_i = pair(row, GAP + v)
    store(row, DX + v, yr + (gap_r * before_r + gap_i * before_i))
    store(row, DX + LANES + v, yi + (gap_r * before_i - gap_i * before_r))
