# SPDX-License-Identifier: Apache-2.0
"""The compiled loops of the FSMN memory on CPUs; cpu.py cuts a call into jobs for them.

A job is one sequence, some output channels and one phase: of steps d apart only those see each
other, and among themselves they are a sequence without dilation. It walks through time in tiles of
TILE rows. What a tile needs is activated once and stays in a small work array, which then holds
the rows that the next tile begins with. Rows of work arrays are whole vectors, with zeros past the
job's last channel. K is the number of rows that taps look back.
"""

import numpy as np

from ..._core.rows import compile_kernel
from .cpu_rows import (
    TAPS,
    TILE,
    activate,
    add,
    convolve,
    copy,
    correlate,
    find_job,
    finish,
    lanes_of,
    load_row,
    load_taps,
    put,
    slopes,
    store_row,
)


@compile_kernel
def forward(inputs, y, hT, bounds, options, first, last):
    """y, and the last rows of a if these are handed over."""
    x, w, bias, scale, h0 = inputs
    silu, dilation, causal, residual = options
    (J, W, C), lanes = w.shape, lanes_of(w.shape[2])
    K = W - 1 if causal else (W - 1) // 2
    taps, shift = np.zeros((J, W * lanes), w.dtype), np.zeros((J, lanes), w.dtype)
    a = np.zeros((J, (TILE + W - 1) * lanes), w.dtype)
    o = np.zeros(TILE * lanes, w.dtype)
    for number in range(first, last):
        s, phase, job = find_job(number, bounds, C, J, dilation)
        load_taps(taps, shift, w, bias, job, False)
        count = job[1]
        for j in range(J):
            for i in range(-K, W - 1 - K):
                row = a[j, (K + i) * lanes : (K + i + 1) * lanes]
                if i < 0 and causal:
                    copy(row, h0[s, phase + (i + K) * dilation], job, j)
                else:
                    activate(row, x, scale, shift[j], job, i, j, silu)
        for i0 in range(0, count, TILE):
            rows = min(TILE, count - i0)
            for j in range(J):
                for m in range(W - 1, W - 1 + rows):
                    row = a[j, m * lanes : (m + 1) * lanes]
                    activate(row, x, scale, shift[j], job, i0 + m - K, j, silu)
            for d in range(rows * lanes):
                o[d] = a[0, K * lanes + d] if residual else 0
            for j in range(J):
                convolve(o, a[j], taps[j], W, rows)
                for d in range((W - 1) * lanes):
                    a[j, d] = a[j, TILE * lanes + d]
            for k in range(rows):
                store_row(y, o[k * lanes : (k + 1) * lanes], job, i0 + k)
        if causal:
            for k in range(K):
                i, row = count - K + k, o[:lanes]
                at = job[0] + i * dilation - bounds[s + 1] + hT.shape[1]
                for j in range(J):
                    if i < 0:
                        copy(row, h0[s, phase + (i + K) * dilation], job, j)
                    else:
                        activate(row, x, scale, shift[j], job, i, j, silu)
                    put(hT[s, at], row, job, j)


@compile_kernel
def backward(inputs, dy, dhT, grads, bounds, options, first, last):
    """All gradients; those of weight and bias by sequence and phase, that of scale by block."""
    x, w, bias, scale, h0 = inputs
    dx, sums, parts, dh0 = grads
    silu, dilation, causal, residual = options
    (J, W, C), lanes = w.shape, lanes_of(w.shape[2])
    K = W - 1 if causal else (W - 1) // 2
    taps, shift = np.zeros((J, W * lanes), w.dtype), np.zeros((J, lanes), w.dtype)
    dtaps, dshift = np.zeros((J, (W + TAPS) * lanes), w.dtype), np.zeros((J, lanes), w.dtype)
    g = np.zeros((TILE + W + TAPS) * lanes, w.dtype)
    a = np.zeros(TILE * lanes, w.dtype)
    o = np.zeros(TILE * lanes, w.dtype)
    slope = np.ones(TILE * lanes, w.dtype)
    for number in range(first, last):
        s, phase, job = find_job(number, bounds, C, J, dilation)
        load_taps(taps, shift, w, bias, job, True)
        dtaps[:] = 0
        dshift[:] = 0
        start, count, c0 = job[0], job[1], job[3]
        begin = -K if causal else 0
        # Row i of a is read by the outputs i - back to i + K.
        back = W - 1 - K
        for m in range(W - 1):
            load_row(g[m * lanes : (m + 1) * lanes], dy, job, begin - back + m)
        for i0 in range(begin, count, TILE):
            rows = min(TILE, count - i0)
            for m in range(W - 1, W - 1 + TILE):
                load_row(g[m * lanes : (m + 1) * lanes], dy, job, i0 - back + m)
            for j in range(J):
                for k in range(rows):
                    i, row = i0 + k, a[k * lanes : (k + 1) * lanes]
                    if i < 0:
                        copy(row, h0[s, phase + (i + K) * dilation], job, j)
                    else:
                        slope_k = slope[k * lanes : (k + 1) * lanes]
                        slopes(row, slope_k, x, scale, shift[j], job, i, j, silu)
                for d in range(rows * lanes):
                    o[d] = g[back * lanes + d] if residual else 0
                convolve(o, g, taps[j], W, rows)
                correlate(dtaps[j], a, g, W, rows)
                for k in range(rows):
                    i, da = i0 + k, o[k * lanes : (k + 1) * lanes]
                    if causal and i >= count - K:
                        at = start + i * dilation - bounds[s + 1] + dhT.shape[1]
                        add(da, dhT[s, at], job, j)
                    if i < 0:
                        put(dh0[s, phase + (i + K) * dilation], da, job, j)
                    else:
                        slope_k = slope[k * lanes : (k + 1) * lanes]
                        part = finish(dx, dshift[j], da, slope_k, x, scale, job, i, j)
                        r = start + i * dilation
                        parts[c0 // lanes, r] = part if j == 0 else parts[c0 // lanes, r] + part
            for d in range((W - 1) * lanes):
                g[d] = g[TILE * lanes + d]
        share = sums[s * dilation + phase]
        for j in range(J):
            for n in range(W):
                _keep(share[j, n], dtaps[j, (W - 1 - n) * lanes :], job)
            _keep(share[j, W], dshift[j], job)


@compile_kernel
def _keep(target, row, job):
    for d in range(job[4] - job[3]):
        target[job[3] + d] = row[d]
