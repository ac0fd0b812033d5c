# SPDX-License-Identifier: Apache-2.0
"""The compiled loops of the MIMO state-space model on CPUs; cpu.py cuts a call into jobs for them.

The tokens of all sequences are rows, walked through in spans. Work arrays hold one span: U and Y
are rows of H inputs and output gradients, V and G rows of `wide` numbers, groups of LANES real
parts and the LANES imaginary parts that belong to them. The scans turn V from projected inputs
into states, G from projected gradients into those of the states, both in place.

States are carried from row to row in float64, so that rounding does not add up over a long memory,
and rounded every ROUND tokens of a sequence, so that a sequence cut there and handed over goes on
with the same numbers.
"""

import numpy as np

from ..._core.lowp import narrow, widen
from ..._core.matmul import product_columns, product_transposed_columns
from ..._core.rows import compile_kernel, padded

LANES = 8
TILE = 64  # rows of a job of products
STATES = 16  # numbers of a row of V or G in a job of gradients
ROUND = 64  # tokens
KEEP = 256  # rows between two states kept for the backward pass

# LANES real and LANES imaginary parts make a group: of a state or its gradient; of the multipliers
# of a step and, behind them, their gradient. What one loop writes lies in one array at fixed
# distances, so that the compiler sees that it does not overlap.
GROUP = 2 * LANES
REAL, IMAG, D_REAL, D_IMAG = (LANES * i for i in range(4))


@compile_kernel
def project(V, U, u, W, wide, first, last):
    """U = u and V = U W for row tiles [first, last)."""
    H = u.shape[1]
    for tile in range(first, last):
        r0, r1 = tile * TILE, min((tile + 1) * TILE, u.shape[0])
        for r in range(r0, r1):
            source, target = u[r], U[r]
            for h in range(H):
                target[h] = widen(source[h])
        product_columns(V, U, W, wide, r0, r1, 0, H, 0)


@compile_kernel
def read(y, V, W, u, D, first, last):
    """y = V W + D u for row tiles [first, last)."""
    H = y.shape[1]
    Y = np.empty((TILE, W.shape[1]), V.dtype)
    for tile in range(first, last):
        r0 = tile * TILE
        count = min(TILE, y.shape[0] - r0)
        product_columns(Y, V[r0:], W, padded(H), 0, count, 0, W.shape[0], 0)
        for i in range(count):
            source, other, target = Y[i], u[r0 + i], y[r0 + i]
            for h in range(H):
                target[h] = narrow(source[h] + D[h] * widen(other[h]), target[h])


@compile_kernel
def advance(V, state, steps, h0, hT, kept, bounds, r0, r1, reverse):
    """x[t] = a x[t-1] + v[t] in the rows V of [r0, r1), and the state before every KEEP rows.

    `state` [groups, GROUP] is what enters and then what leaves, h0 and hT [Nseq, wide] are the
    states at the ends of sequences. `steps` [1 or rows, groups, 2 GROUP] begins with a. Nothing is
    put into an empty array `kept`.
    """
    n = 0
    for i in range(r1 - r0):
        r = r1 - 1 - i if reverse else r0 + i
        n, before, after = _place(bounds, n, r, reverse)
        if before == 0:
            _load(state, h0[n])
        if i % KEEP == 0 and i // KEEP < len(kept):
            _store(kept[i // KEEP], state)
        V_r, step = V[r - r0], steps[min(r - r0, len(steps) - 1)]
        for j in range(len(state)):
            x, a, v = state[j], step[j], V_r[j * GROUP :]
            for p in range(LANES):
                real = a[REAL + p] * x[REAL + p] - a[IMAG + p] * x[IMAG + p] + v[REAL + p]
                imag = a[REAL + p] * x[IMAG + p] + a[IMAG + p] * x[REAL + p] + v[IMAG + p]
                x[REAL + p] = real
                x[IMAG + p] = imag
                v[REAL + p] = real
                v[IMAG + p] = imag
        if before % ROUND == ROUND - 1:
            _load(state, V_r)
        if after == 0:
            _store(hT[n], state)


@compile_kernel
def retreat(G, V, carry, steps, h0, entering, dh0, bounds, r0, r1, reverse):
    """s[t] = g[t] + conj(a) s[t+1] in the rows G of [r0, r1), da += s[t] conj(x[t-1]).

    V holds the states x, `entering` the one before them, `carry` conj(a) s[t+1]. `steps` is that
    of `advance` and holds da behind a; dh0 comes in as the gradient of the last states.
    """
    n = 0
    for i in range(r1 - r0):
        r = r0 + i if reverse else r1 - 1 - i
        n, before, after = _place(bounds, n, r, reverse)
        if after == 0:
            _load(carry, dh0[n])
        if before == 0:
            x_r = h0[n]
        elif i == r1 - r0 - 1:
            x_r = entering
        else:
            x_r = V[r - r0 + 1 if reverse else r - r0 - 1]
        G_r, step = G[r - r0], steps[min(r - r0, len(steps) - 1)]
        for j in range(len(carry)):
            c, a, g, x = carry[j], step[j], G_r[j * GROUP :], x_r[j * GROUP :]
            for p in range(LANES):
                real, imag = c[REAL + p] + g[REAL + p], c[IMAG + p] + g[IMAG + p]
                g[REAL + p] = real
                g[IMAG + p] = imag
                a[D_REAL + p] += real * x[REAL + p] + imag * x[IMAG + p]
                a[D_IMAG + p] += imag * x[REAL + p] - real * x[IMAG + p]
                c[REAL + p] = a[REAL + p] * real + a[IMAG + p] * imag
                c[IMAG + p] = a[REAL + p] * imag - a[IMAG + p] * real
        if before == 0:
            _store(dh0[n], carry)


@compile_kernel
def collect(dB, dC, dD, U, Y, V, G, rows, first, last):
    """dB += G' U and dC += V' Y [wide, H] in jobs [first, last), dD += sum of U Y [H] in the first.

    A job is STATES numbers of the state. Sums over spans are float64.
    """
    parts = np.empty((len(dB), U.shape[1]), U.dtype)
    for job in range(first, last):
        p0 = job * STATES
        _add_product(dB, parts, G, U, p0, rows)
        _add_product(dC, parts, V, Y, p0, rows)
    if first == 0:
        for r in range(rows):
            left, right = U[r], Y[r]
            for h in range(len(dD)):
                dD[h] += left[h] * right[h]


@compile_kernel
def _add_product(total, parts, left, right, p0, rows):
    H = total.shape[1]
    product_transposed_columns(parts, left, right, padded(H), p0, p0 + STATES, 0, rows, 0)
    for p in range(p0, p0 + STATES):
        source, target = parts[p], total[p]
        for h in range(H):
            target[h] += source[h]


@compile_kernel
def _place(bounds, n, r, reverse):
    """The sequence of row r, looked for from n, and how many rows precede and follow it there."""
    while bounds[n + 1] <= r:
        n += 1
    while bounds[n] > r:
        n -= 1
    first, last = r - bounds[n], bounds[n + 1] - 1 - r
    return (n, last, first) if reverse else (n, first, last)


@compile_kernel
def _load(state, row):
    for j in range(len(state)):
        target, source = state[j], row[j * GROUP :]
        for p in range(GROUP):
            target[p] = source[p]


@compile_kernel
def _store(row, state):
    for j in range(len(state)):
        target, source = row[j * GROUP :], state[j]
        for p in range(GROUP):
            target[p] = source[p]
