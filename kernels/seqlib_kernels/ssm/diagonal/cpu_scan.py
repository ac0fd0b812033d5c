# SPDX-License-Identifier: Apache-2.0
"""The compiled loops of the diagonal state-space model on CPUs; cpu.py cuts a call into jobs.

A job is up to LANES channels of a few sequences. It walks through time in pieces of PIECE steps,
and inside a piece takes a few modes after the others: their states and multipliers stay in
registers, and all that a sweep of the piece touches in the L1 cache.

A multiplier rounded to float32 has lost its phase after some thousand steps. That is why at the
end of a piece of n steps the state gets what a^n lost, times the state at the start.
"""

import numpy as np

from ..._core.rows import compile_kernel
from ..._core.vectors import load, store, width, zeros
from .cpu_rows import (
    DA,
    DB,
    DC,
    DU,
    DX,
    E_INVERSE,
    F_INVERSE,
    LANES,
    MODE_ROWS,
    PIECE,
    STEP_ROWS,
    SUM_ROWS,
    A,
    E,
    F,
    G,
    U,
    X,
    Y,
    add_gradients,
    add_sums,
    enter,
    keep_state,
    leave,
    leave_back,
    load_factors,
    load_gap,
    load_readout,
    load_state,
    load_step,
    load_step_back,
    pair,
    recall_state,
    store_row,
    store_state,
)

GROUP = 8  # sequences of a job
_AT_ONCE = 4  # modes that a sweep takes; half as many backward


@compile_kernel
def forward(u, a, b, c, skip, y, hT, states, keep, reverse, bounds, block, first, last):
    """y and hT, which holds h0 before; `states` at the start of every piece if asked for."""
    M = a.shape[1]
    table, steps = _work(hT, M)
    flat = steps.reshape(-1)
    for number in range(first, last):
        s0, s1, d0, d1 = _job(number, len(bounds) - 1, a.shape[0], block)
        table[:] = 0
        steps[:] = 0
        load_state(table, A, a, d0, d1)
        for s in range(s0, s1):
            load_state(table, X, hT[s], d0, d1)
            load_factors(table, F, X, b, 1, d0, d1)
            load_readout(table, F, c, 1, d0, d1)
            T = bounds[s + 1] - bounds[s]
            for i0 in range(0, T, PIECE):
                n = min(PIECE, T - i0)
                if i0 == 0 or n < PIECE:
                    load_gap(table, a, n, d0, d1)
                if keep:
                    keep_state(states[_slot(bounds, s, i0)], table, X, d0, d1)
                for i in range(n):
                    t = _row(bounds, s, i0 + i, reverse)
                    load_step(steps[i], u[t, d0:d1], skip[d0:d1])
                for m in range(0, M, _AT_ONCE):
                    for v in range(0, d1 - d0, width(flat)):
                        _sweep(table[m], table[m + 1], table[m + 2], table[m + 3], flat, n, v)
                for i in range(n):
                    t = _row(bounds, s, i0 + i, reverse)
                    store_row(y[t, d0:d1], steps[i], Y)
            store_state(hT[s], table, X, d0, d1)


@compile_kernel
def backward(u, a, b, c, skip, states, dy, du, dh0, parts, reverse, bounds, block, first, last):
    """All gradients; dh0 holds dhT before, `parts` those of a, b, c and D by group of sequences."""
    M = a.shape[1]
    da, db, dc, dskip = parts
    table, steps = _work(dh0, M)
    flat = steps.reshape(-1)
    kept = np.zeros(PIECE * 8 * width(flat), dh0.dtype)
    sums = np.zeros((_AT_ONCE, SUM_ROWS), dh0.dtype)
    total = np.zeros((len(table), SUM_ROWS))
    for number in range(first, last):
        s0, s1, d0, d1 = _job(number, len(bounds) - 1, a.shape[0], block)
        g = s0 // GROUP
        table[:] = 0
        steps[:] = 0
        for part in (da, db, dc):
            part[g, d0:d1] = 0
        dskip[g, d0:d1] = 0
        load_state(table, A, a, d0, d1)
        for s in range(s0, s1):
            T = bounds[s + 1] - bounds[s]
            if T == 0:
                continue
            recall_state(table, X, states[_slot(bounds, s, 0)], d0, d1)
            load_factors(table, F, X, b, 1, d0, d1)
            load_state(table, DX, dh0[s], d0, d1)
            load_factors(table, E, DX, c, -1, d0, d1)
            load_readout(table, E, b, -1, d0, d1)
            total[:] = 0
            end = (T - 1) // PIECE * PIECE
            for i0 in range(end, -1, -PIECE):
                n = min(PIECE, T - i0)
                if n < PIECE or i0 + 2 * PIECE >= T:  # the last pieces, that may differ
                    load_gap(table, a, n, d0, d1)
                recall_state(table, X, states[_slot(bounds, s, i0)], d0, d1)
                for i in range(n):
                    t = _row(bounds, s, i0 + i, reverse)
                    load_step_back(
                        steps[i], u[t, d0:d1], dy[t, d0:d1], skip[d0:d1], dskip[g, d0:d1]
                    )
                for m in range(0, M, _AT_ONCE):
                    for v in range(0, d1 - d0, width(flat)):
                        _sweep_again(
                            table[m],
                            table[m + 1],
                            table[m + 2],
                            table[m + 3],
                            sums,
                            flat,
                            kept,
                            n,
                            v,
                        )
                        _sweep_back(table[m], table[m + 1], sums[0], sums[1], flat, kept, 0, n, v)
                        _sweep_back(
                            table[m + 2], table[m + 3], sums[2], sums[3], flat, kept, 4, n, v
                        )
                    for k in range(_AT_ONCE):
                        add_sums(total[m + k], sums[k])
                for i in range(n):
                    t = _row(bounds, s, i0 + i, reverse)
                    store_row(du[t, d0:d1], steps[i], DU)
            store_state(dh0[s], table, DX, d0, d1)
            add_gradients(da[g], db[g], dc[g], table, total, d0, d1)


@compile_kernel
def _work(like, M):
    """Rows of every mode, of a whole number of sweeps, and of every step of a piece."""
    modes = (M + _AT_ONCE - 1) // _AT_ONCE * _AT_ONCE
    return np.zeros((modes, MODE_ROWS), like.dtype), np.zeros((PIECE, STEP_ROWS), like.dtype)


@compile_kernel
def _job(number, sequences, H, block):
    """Sequences [s0, s1) and channels [d0, d1) of a job."""
    blocks = (H + block - 1) // block
    s0, d0 = number // blocks * GROUP, number % blocks * block
    return s0, min(s0 + GROUP, sequences), d0, min(d0 + block, H)


@compile_kernel
def _row(bounds, s, i, reverse):
    """The row of step number i of the walk through sequence s."""
    return bounds[s + 1] - 1 - i if reverse else bounds[s] + i


@compile_kernel
def _slot(bounds, s, i):
    """Where the state before step number i is kept; see `Tensors.states_shape`."""
    return bounds[s] // PIECE + s + i // PIECE


@compile_kernel
def _turn(ar, ai, xr, xi, u):
    """a x + u for real u"""
    return u + ar * xr - ai * xi, ar * xi + ai * xr


@compile_kernel
def _sweep(row0, row1, row2, row3, steps, n, v):
    """x = a x + u; y += Re(g x), for four modes of a vector of channels and n steps."""
    a0r, a0i = pair(row0, A + v)
    a1r, a1i = pair(row1, A + v)
    a2r, a2i = pair(row2, A + v)
    a3r, a3i = pair(row3, A + v)
    g0r, g0i = pair(row0, G + v)
    g1r, g1i = pair(row1, G + v)
    g2r, g2i = pair(row2, G + v)
    g3r, g3i = pair(row3, G + v)
    x0r, x0i = enter(row0, v, X, F_INVERSE)
    x1r, x1i = enter(row1, v, X, F_INVERSE)
    x2r, x2i = enter(row2, v, X, F_INVERSE)
    x3r, x3i = enter(row3, v, X, F_INVERSE)
    for i in range(n):
        at = i * STEP_ROWS + v
        u = load(steps, at + U)
        x0r, x0i = _turn(a0r, a0i, x0r, x0i, u)
        x1r, x1i = _turn(a1r, a1i, x1r, x1i, u)
        x2r, x2i = _turn(a2r, a2i, x2r, x2i, u)
        x3r, x3i = _turn(a3r, a3i, x3r, x3i, u)
        y = load(steps, at + Y)
        y = y + g0r * x0r - g0i * x0i + g1r * x1r - g1i * x1i
        y = y + g2r * x2r - g2i * x2i + g3r * x3r - g3i * x3i
        store(steps, at + Y, y)
    leave(row0, v, X, F, x0r, x0i)
    leave(row1, v, X, F, x1r, x1i)
    leave(row2, v, X, F, x2r, x2i)
    leave(row3, v, X, F, x3r, x3i)


@compile_kernel
def _sweep_again(row0, row1, row2, row3, sums, steps, kept, n, v):
    """The states of four modes before every step, and the gradient of c."""
    W = width(steps)
    a0r, a0i = pair(row0, A + v)
    a1r, a1i = pair(row1, A + v)
    a2r, a2i = pair(row2, A + v)
    a3r, a3i = pair(row3, A + v)
    x0r, x0i = enter(row0, v, X, F_INVERSE)
    x1r, x1i = enter(row1, v, X, F_INVERSE)
    x2r, x2i = enter(row2, v, X, F_INVERSE)
    x3r, x3i = enter(row3, v, X, F_INVERSE)
    c0r = c0i = c1r = c1i = c2r = c2i = c3r = c3i = zeros(steps)
    for i in range(n):
        here = i * 8 * W
        store(kept, here, x0r)
        store(kept, here + W, x0i)
        store(kept, here + 2 * W, x1r)
        store(kept, here + 3 * W, x1i)
        store(kept, here + 4 * W, x2r)
        store(kept, here + 5 * W, x2i)
        store(kept, here + 6 * W, x3r)
        store(kept, here + 7 * W, x3i)
        at = i * STEP_ROWS + v
        u, dy = load(steps, at + U), load(steps, at + Y)
        x0r, x0i = _turn(a0r, a0i, x0r, x0i, u)
        x1r, x1i = _turn(a1r, a1i, x1r, x1i, u)
        x2r, x2i = _turn(a2r, a2i, x2r, x2i, u)
        x3r, x3i = _turn(a3r, a3i, x3r, x3i, u)
        c0r, c0i = c0r + dy * x0r, c0i - dy * x0i
        c1r, c1i = c1r + dy * x1r, c1i - dy * x1i
        c2r, c2i = c2r + dy * x2r, c2i - dy * x2i
        c3r, c3i = c3r + dy * x3r, c3i - dy * x3i
    _store_pair(sums[0], DC + v, c0r, c0i)
    _store_pair(sums[1], DC + v, c1r, c1i)
    _store_pair(sums[2], DC + v, c2r, c2i)
    _store_pair(sums[3], DC + v, c3r, c3i)


@compile_kernel
def _sweep_back(row0, row1, sums0, sums1, steps, kept, first, n, v):
    """The gradients of one sweep, for two modes: forward to see the states, then back.

    s is the gradient of a state divided by e, k what the next step hands to it.
    """
    W = width(steps)
    a0r, a0i = pair(row0, A + v)
    a1r, a1i = pair(row1, A + v)
    g0r, g0i = pair(row0, G + v)
    g1r, g1i = pair(row1, G + v)
    k0r, k0i = enter(row0, v, DX, E_INVERSE)
    k1r, k1i = enter(row1, v, DX, E_INVERSE)
    da0r = da0i = da1r = da1i = zeros(steps)
    db0r = db0i = db1r = db1i = zeros(steps)
    for i in range(n - 1, -1, -1):
        here = i * 8 * W + first * W
        at = i * STEP_ROWS + v
        u, dy = load(steps, at + U), load(steps, at + Y)
        s0r, s1r = dy + k0r, dy + k1r
        du = load(steps, at + DU)
        du = du + g0r * s0r - g0i * k0i + g1r * s1r - g1i * k1i
        store(steps, at + DU, du)
        db0r, db0i = db0r + s0r * u, db0i + k0i * u
        db1r, db1i = db1r + s1r * u, db1i + k1i * u
        x0r, x0i = load(kept, here), load(kept, here + W)
        x1r, x1i = load(kept, here + 2 * W), load(kept, here + 3 * W)
        da0r, da0i = da0r + s0r * x0r + k0i * x0i, da0i + k0i * x0r - s0r * x0i
        da1r, da1i = da1r + s1r * x1r + k1i * x1i, da1i + k1i * x1r - s1r * x1i
        k0r, k0i = a0r * s0r + a0i * k0i, a0r * k0i - a0i * s0r
        k1r, k1i = a1r * s1r + a1i * k1i, a1r * k1i - a1i * s1r
    _store_pair(sums0, DA + v, da0r, da0i)
    _store_pair(sums1, DA + v, da1r, da1i)
    _store_pair(sums0, DB + v, db0r, db0i)
    _store_pair(sums1, DB + v, db1r, db1i)
    leave_back(row0, v, k0r, k0i)
    leave_back(row1, v, k1r, k1i)


@compile_kernel
def _store_pair(row, at, re, im):
    store(row, at, re)
    store(row, at + LANES, im)
