# SPDX-License-Identifier: Apache-2.0
"""The compiled loops of the FSMN memory on CPUs; cpu.py cuts a call into jobs for them.

A job is one sequence, some output channels and one phase: of steps d apart only those see each
other, and among themselves they are a sequence without dilation. It walks through time in tiles of
TILE rows. What a tile needs is activated once and stays in a small work array, which then holds
the rows that the next tile begins with. Rows of work arrays are whole vectors, with zeros past the
job's last channel. K is the number of rows that taps look back.
"""

import numpy as np

from ..._core.exponential import sigmoid
from ..._core.lowp import narrow, widen
from ..._core.rows import compile_kernel, padded
from ..._core.vectors import load, store, width, zeros

LANES = 256  # output channels of a job at most
TILE = 32  # rows of a tile, a multiple of ROWS
ROWS = 8  # outputs that registers hold side by side
TAPS = 6  # gradients of taps that registers hold side by side


@compile_kernel
def forward(inputs, y, hT, bounds, options, first, last):
    """y, and the last rows of a if these are handed over."""
    x, w, bias, scale, h0 = inputs
    silu, dilation, causal, residual = options
    (J, W, C), lanes = w.shape, lanes_of(w.shape[2])
    K = W - 1 if causal else (W - 1) // 2
    ahead = W - 1 - K
    taps, shift = _job_arrays(w, lanes)
    a = np.zeros((J, (TILE + W - 1) * lanes), w.dtype)
    o = np.zeros(TILE * lanes, w.dtype)
    for number in range(first, last):
        s, phase, c0, c1 = _job(number, C, dilation, lanes)
        start, count = _phase(bounds, s, phase, dilation)
        _load_job(taps, shift, w, bias, c0, c1, False)
        for j in range(J):
            for i in range(-K, ahead):
                row = a[j, (K + i) * lanes : (K + i + 1) * lanes]
                if i < 0 and causal:
                    _copy(row, h0[s, phase + (i + K) * dilation], c0, c1, J, j)
                else:
                    _activate(
                        row, x, scale, shift[j], start, count, i, dilation, c0, c1, J, j, silu
                    )
        for i0 in range(0, count, TILE):
            for j in range(J):
                for i in range(i0 + ahead, i0 + ahead + TILE):
                    m = i - i0 + K
                    row = a[j, m * lanes : (m + 1) * lanes]
                    _activate(
                        row, x, scale, shift[j], start, count, i, dilation, c0, c1, J, j, silu
                    )
            for d in range(TILE * lanes):
                o[d] = a[0, K * lanes + d] if residual else 0
            for j in range(J):
                _convolve(o, a[j], taps[j], W)
                for d in range((W - 1) * lanes):
                    a[j, d] = a[j, TILE * lanes + d]
            for i in range(i0, min(i0 + TILE, count)):
                _store(y[start + i * dilation, c0:c1], o[(i - i0) * lanes : (i - i0 + 1) * lanes])
        if causal:
            for i in range(count - K, count):
                at = start + i * dilation - bounds[s + 1] + hT.shape[1]
                for j in range(J):
                    row = o[:lanes]
                    if i < 0:
                        _copy(row, h0[s, phase + (i + K) * dilation], c0, c1, J, j)
                    else:
                        _activate(
                            row, x, scale, shift[j], start, count, i, dilation, c0, c1, J, j, silu
                        )
                    for d in range(c1 - c0):
                        hT[s, at, (c0 + d) * J + j] = row[d]


@compile_kernel
def backward(inputs, dy, dhT, grads, bounds, options, first, last):
    """All gradients; those of weight and bias by sequence and phase, that of scale by block."""
    x, w, bias, scale, h0 = inputs
    dx, sums, parts, dh0 = grads
    silu, dilation, causal, residual = options
    (J, W, C), lanes = w.shape, lanes_of(w.shape[2])
    K = W - 1 if causal else (W - 1) // 2
    taps, shift = _job_arrays(w, lanes)
    dtaps = np.zeros((J, (W + TAPS) * lanes), w.dtype)
    g = np.zeros((TILE + W + TAPS) * lanes, w.dtype)
    a = np.zeros(TILE * lanes, w.dtype)
    o = np.zeros(TILE * lanes, w.dtype)
    slope = np.ones(TILE * lanes, w.dtype)
    dshift = np.zeros((J, lanes), w.dtype)
    for number in range(first, last):
        s, phase, c0, c1 = _job(number, C, dilation, lanes)
        start, count = _phase(bounds, s, phase, dilation)
        n = c1 - c0
        _load_job(taps, shift, w, bias, c0, c1, True)
        dtaps[:] = 0
        dshift[:] = 0
        begin = -K if causal else 0
        # Row i of a is read by the outputs i + K - (W-1) to i + K.
        for m in range(W - 1):
            _load(
                g[m * lanes : (m + 1) * lanes],
                dy,
                start,
                count,
                begin + K - (W - 1) + m,
                dilation,
                c0,
                c1,
            )
        for i0 in range(begin, count, TILE):
            i1 = min(i0 + TILE, count)
            for m in range(W - 1, W - 1 + TILE):
                _load(
                    g[m * lanes : (m + 1) * lanes],
                    dy,
                    start,
                    count,
                    i0 + K - (W - 1) + m,
                    dilation,
                    c0,
                    c1,
                )
            for j in range(J):
                for i in range(i0, i1):
                    k = (i - i0) * lanes
                    if i < 0:
                        _copy(a[k : k + lanes], h0[s, phase + (i + K) * dilation], c0, c1, J, j)
                    else:
                        r = start + i * dilation
                        _slopes(
                            a[k : k + lanes], slope[k : k + lanes], x[r], scale[r], shift[j],
                            c0, n, J, j, silu,
                        )  # fmt: skip
                for d in range(TILE * lanes):
                    o[d] = g[(W - 1 - K) * lanes + d] if residual else 0
                _convolve(o, g, taps[j], W)
                _correlate(dtaps[j], a, g, W, i1 - i0)
                for i in range(i0, i1):
                    da = o[(i - i0) * lanes : (i - i0 + 1) * lanes]
                    if causal and i >= count - K:
                        at = start + i * dilation - bounds[s + 1] + dhT.shape[1]
                        for d in range(n):
                            da[d] += dhT[s, at, (c0 + d) * J + j]
                    if i < 0:
                        for d in range(n):
                            dh0[s, phase + (i + K) * dilation, (c0 + d) * J + j] = da[d]
                        continue
                    r = start + i * dilation
                    k = (i - i0) * lanes
                    part = _finish(
                        dx[r], dshift[j], da, slope[k : k + lanes], x[r], scale[r], c0, n, J, j
                    )
                    parts[c0 // lanes, r] = part if j == 0 else parts[c0 // lanes, r] + part
            for d in range((W - 1) * lanes):
                g[d] = g[TILE * lanes + d]
        for j in range(J):
            for d in range(n):
                for m in range(W):
                    sums[s * dilation + phase, j, W - 1 - m, c0 + d] = dtaps[j, m * lanes + d]
                sums[s * dilation + phase, j, W, c0 + d] = dshift[j, d]


@compile_kernel
def lanes_of(C):
    """How many numbers a row of a job takes: whole vectors."""
    return min(LANES, padded(C))


@compile_kernel
def _job(number, C, dilation, lanes):
    """Sequence, phase and channels [c0, c1) of a job."""
    blocks = (C + lanes - 1) // lanes
    rest, phase = number // dilation, number % dilation
    c0 = rest % blocks * lanes
    return rest // blocks, phase, c0, min(c0 + lanes, C)


@compile_kernel
def _phase(bounds, s, phase, dilation):
    """The first row of a phase among all rows, and how many it has, `dilation` apart."""
    start = bounds[s] + phase
    return start, max(0, (bounds[s + 1] - start + dilation - 1) // dilation)


@compile_kernel
def _job_arrays(w, lanes):
    """Taps by row and bias of a job, for each of the J inputs of an output."""
    J, W, _ = w.shape
    return np.zeros((J, W * lanes), w.dtype), np.zeros((J, lanes), w.dtype)


@compile_kernel
def _load_job(taps, shift, w, bias, c0, c1, flipped):
    (J, W, _), lanes = w.shape, shift.shape[1]
    taps[:] = 0
    shift[:] = 0
    for j in range(J):
        for n in range(W):
            at = (W - 1 - n if flipped else n) * lanes
            for d in range(c1 - c0):
                taps[j, at + d] = w[j, n, c0 + d]
        for d in range(c1 - c0):
            shift[j, d] = bias[(c0 + d) * J + j]


@compile_kernel
def _copy(row, source, c0, c1, J, j):
    for d in range(c1 - c0):
        row[d] = source[(c0 + d) * J + j]
    row[c1 - c0 :] = 0


@compile_kernel
def _activate(row, x, scale, shift, start, count, i, dilation, c0, c1, J, j, silu):
    """Row i of a phase: a = act(scale x + bias), zero outside of it."""
    if i < 0 or i >= count:
        row[:] = 0
        return
    r = start + i * dilation
    _shifted(row, x[r], scale[r], shift, c0, c1 - c0, J, j)
    if silu:
        for d in range(len(row)):
            row[d] *= sigmoid(row[d])


@compile_kernel
def _slopes(row, slope, x, factor, shift, c0, n, J, j, silu):
    """a = act(z) and its derivative, z = factor x + bias."""
    one = row.dtype.type(1)
    _shifted(row, x, factor, shift, c0, n, J, j)
    if silu:
        for d in range(len(row)):
            z = row[d]
            s = sigmoid(z)
            row[d] = z * s
            slope[d] = s * (one + z * (one - s))
    else:
        slope[:] = one


@compile_kernel
def _shifted(row, x, factor, shift, c0, n, J, j):
    if J == 1:  # a loop of its own, of which the compiler makes vectors
        source = x[c0 : c0 + n]
        for d in range(n):
            row[d] = widen(source[d]) * factor + shift[d]
    else:
        for d in range(n):
            row[d] = widen(x[(c0 + d) * J + j]) * factor + shift[d]
    row[n:] = 0


@compile_kernel
def _finish(dx, dshift, da, slope, x, factor, c0, n, J, j):
    """dx and dbias of one row from da; returns its share of the gradient of scale."""
    part = da.dtype.type(0)
    if J == 1:
        source, target = x[c0 : c0 + n], dx[c0 : c0 + n]
        for d in range(n):
            dz = da[d] * slope[d]
            dshift[d] += dz
            part += dz * widen(source[d])
            target[d] = narrow(dz * factor, target[d])
    else:
        for d in range(n):
            at = (c0 + d) * J + j
            dz = da[d] * slope[d]
            dshift[d] += dz
            part += dz * widen(x[at])
            dx[at] = narrow(dz * factor, dx[at])
    return part


@compile_kernel
def _load(row, dy, start, count, i, dilation, c0, c1):
    """Row i of a phase of dy, zero outside of it."""
    if i < 0 or i >= count:
        row[:] = 0
        return
    source = dy[start + i * dilation, c0:c1]
    for d in range(len(source)):
        row[d] = widen(source[d])
    row[len(source) :] = 0


@compile_kernel
def _store(y, row):
    for d in range(len(y)):
        y[d] = narrow(row[d], y[d])


@compile_kernel
def _convolve(o, a, taps, W):
    """o[k] += sum over n of taps[n] a[k + n], for TILE rows"""
    lanes = len(o) // TILE
    for first in range(0, TILE * lanes, ROWS * lanes):
        for at in range(first, first + lanes, width(o)):
            s0 = load(o, at)
            s1 = load(o, at + lanes)
            s2 = load(o, at + 2 * lanes)
            s3 = load(o, at + 3 * lanes)
            s4 = load(o, at + 4 * lanes)
            s5 = load(o, at + 5 * lanes)
            s6 = load(o, at + 6 * lanes)
            s7 = load(o, at + 7 * lanes)
            for n in range(W):
                w = load(taps, at - first + n * lanes)
                row = at + n * lanes
                s0 = s0 + w * load(a, row)
                s1 = s1 + w * load(a, row + lanes)
                s2 = s2 + w * load(a, row + 2 * lanes)
                s3 = s3 + w * load(a, row + 3 * lanes)
                s4 = s4 + w * load(a, row + 4 * lanes)
                s5 = s5 + w * load(a, row + 5 * lanes)
                s6 = s6 + w * load(a, row + 6 * lanes)
                s7 = s7 + w * load(a, row + 7 * lanes)
            store(o, at, s0)
            store(o, at + lanes, s1)
            store(o, at + 2 * lanes, s2)
            store(o, at + 3 * lanes, s3)
            store(o, at + 4 * lanes, s4)
            store(o, at + 5 * lanes, s5)
            store(o, at + 6 * lanes, s6)
            store(o, at + 7 * lanes, s7)


@compile_kernel
def _correlate(dtaps, a, g, W, rows):
    """dtaps[n] += sum over k of a[k] g[k + n], for `rows` rows; n goes on to a multiple of TAPS"""
    lanes = len(a) // TILE
    for n in range(0, W, TAPS):
        for at in range(0, lanes, width(a)):
            s0 = s1 = s2 = s3 = s4 = s5 = zeros(a)
            for k in range(rows):
                x = load(a, at + k * lanes)
                row = at + (k + n) * lanes
                s0 = s0 + x * load(g, row)
                s1 = s1 + x * load(g, row + lanes)
                s2 = s2 + x * load(g, row + 2 * lanes)
                s3 = s3 + x * load(g, row + 3 * lanes)
                s4 = s4 + x * load(g, row + 4 * lanes)
                s5 = s5 + x * load(g, row + 5 * lanes)
            row = at + n * lanes
            store(dtaps, row, load(dtaps, row) + s0)
            store(dtaps, row + lanes, load(dtaps, row + lanes) + s1)
            store(dtaps, row + 2 * lanes, load(dtaps, row + 2 * lanes) + s2)
            store(dtaps, row + 3 * lanes, load(dtaps, row + 3 * lanes) + s3)
            store(dtaps, row + 4 * lanes, load(dtaps, row + 4 * lanes) + s4)
            store(dtaps, row + 5 * lanes, load(dtaps, row + 5 * lanes) + s5)
