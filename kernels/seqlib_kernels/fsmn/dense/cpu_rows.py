# SPDX-License-Identifier: Apache-2.0
"""The compiled loops of the dense memory on CPUs; cpu.py cuts a call into jobs for them.

A convolution is cut as in the FSMN memory, whose tiles and products it shares: one sequence, a
block of channels, one phase of steps d apart. What a layer reads, x and the o_i before it, is made
from the a_i while it is loaded and torn into its J neighbours; no o_i is ever stored. Layers are
counted from 0: layer i reads i+1 blocks of C channels, o of layer i-1 first and x last.

The rows x, the parameters [depth,3,C] (gain, shift, slope), convs [depth,rows,C], mean and rstd
[depth,N,C] are the first arguments of all.
"""

import numpy as np

from ..._core.lowp import narrow, widen
from ..._core.rows import compile_kernel
from ..memory.cpu_rows import TAPS, TILE, convolve, correlate, find_job, lanes_of
from ..norm.cpu_rows import LANES, job, sequence_at
from ..norm.cpu_rows import TILE as ROWS


@compile_kernel
def forward(x, parameters, convs, mean, rstd, w, bounds, i, first, last):
    """a of layer i, into convs[i]."""
    (J, W, C), dilation, lanes = w.shape, 1 << i, lanes_of(w.shape[2])
    K = (W - 1) // 2
    ahead = (K + TILE - 1) // TILE * TILE  # tiles that only load what the first output reads
    taps = np.zeros((J, W * lanes), w.dtype)
    a = np.zeros((J, (TILE + W - 1) * lanes), w.dtype)
    row = np.zeros(J * lanes, w.dtype)
    o = np.zeros(TILE * lanes, w.dtype)
    for number in range(first, last):
        s, _, (start, count, _, c0, c1, _) = find_job(number, bounds, C, J, dilation)
        _load_taps(taps, w, c0, c1, False)
        a[:] = 0
        for k in range(-ahead, count, TILE):
            for m in range(K + k, K + k + TILE):
                if m >= 0:
                    if m < count:
                        r = start + m * dilation
                        _read(row, x, parameters, convs, mean, rstd, r, s, i, c0 * J, c1 * J)
                    _tear(a, m - k + K, row, c1 - c0, m < count)
            if k >= 0:
                o[:] = 0
                for j in range(J):
                    convolve(o, a[j], taps[j], W, min(TILE, count - k))
                for m in range(k, min(k + TILE, count)):
                    target = convs[i, start + m * dilation, c0:c1]
                    source = o[(m - k) * lanes : (m - k + 1) * lanes]
                    for d in range(len(target)):
                        target[d] = source[d]
            for j in range(J):
                for d in range((W - 1) * lanes):
                    a[j, d] = a[j, TILE * lanes + d]


@compile_kernel
def activate(x, parameters, convs, mean, rstd, y, bounds, first, last):
    """o of the last layer, for rows first to last."""
    s, i = sequence_at(bounds, first), len(convs) - 1
    row = np.zeros(x.shape[1], convs.dtype)
    for r in range(first, last):
        while r >= bounds[s + 1]:
            s += 1
        _activated(row, convs[i, r], mean[i, s], rstd[i, s], parameters[i])
        target = y[r]
        for d in range(len(target)):
            target[d] = narrow(row[d], target[d])


@compile_kernel
def gradient_sums(x, parameters, convs, mean, rstd, do, bounds, i, sums, first, last):
    """The sums over time of dz, dz xh and of what slopes get, [3,N,C], behind the norm of layer i.

    z is what the PReLU of the layer sees and xh what the norm makes before its affine map.
    """
    part, zero = np.zeros((3, LANES), convs.dtype), convs.dtype.type(0)
    for number in range(first, last):
        s, c0, c1 = job(number, x.shape[1])
        n = c1 - c0
        centre, scale = mean[i, s, c0:c1], rstd[i, s, c0:c1]
        gain, shift, slope = _parameters(parameters[i], c0, c1)
        sums[:, s, c0:c1] = 0
        for r0 in range(bounds[s], bounds[s + 1], ROWS):
            part[:] = 0
            for r in range(r0, min(r0 + ROWS, bounds[s + 1])):
                source, grad = convs[i, r, c0:c1], do[r, c0:c1]
                for d in range(n):
                    g = widen(grad[d])
                    xh = (source[d] - centre[d]) * scale[d]
                    z = gain[d] * xh + shift[d]
                    dz = g if z > 0 else slope[d] * g
                    part[0, d] += dz
                    part[1, d] += dz * xh
                    part[2, d] += g * z if not z > 0 else zero
            for k in range(3):
                for d in range(n):
                    sums[k, s, c0 + d] += part[k, d]


@compile_kernel
def backward(
    x, parameters, convs, mean, rstd, do, means, w, bounds, i, grads, parts, first, last
):  # fmt: skip
    """The gradients of what layer i reads, and of its taps by sequence and phase."""
    (J, W, C), dilation, lanes = w.shape, 1 << i, lanes_of(w.shape[2])
    K = (W - 1) // 2
    ahead = (K + TILE - 1) // TILE * TILE  # tiles that only load what the first output reads
    taps = np.zeros((J, W * lanes), w.dtype)
    dtaps = np.zeros((J, (W + TAPS) * lanes), w.dtype)
    g = np.zeros((TILE + W + TAPS) * lanes, w.dtype)
    a = np.zeros((J, TILE * lanes), w.dtype)
    o = np.zeros((J, TILE * lanes), w.dtype)
    row = np.zeros(J * lanes, w.dtype)
    for number in range(first, last):
        s, phase, (start, count, _, c0, c1, _) = find_job(number, bounds, C, J, dilation)
        n = c1 - c0
        _load_taps(taps, w, c0, c1, True)
        dtaps[:] = 0
        g[:] = 0
        for k in range(-ahead, count, TILE):
            for m in range(K + k, K + k + TILE):
                if m >= 0:
                    target = g[(m - k + K) * lanes : (m - k + K + 1) * lanes]
                    target[:] = 0
                    if m < count:
                        r = start + m * dilation
                        _differentiate(
                            target[:n], convs[i, r, c0:c1], do[r, c0:c1], mean[i, s, c0:c1],
                            rstd[i, s, c0:c1], parameters[i], means[:, s], c0, c1,
                        )  # fmt: skip
            if k >= 0:
                rows = min(TILE, count - k)
                for m in range(rows):
                    r = start + (k + m) * dilation
                    _read(row, x, parameters, convs, mean, rstd, r, s, i, c0 * J, c1 * J)
                    _tear(a, m, row, n, True)
                o[:] = 0
                for j in range(J):
                    convolve(o[j], g, taps[j], W, rows)
                    correlate(dtaps[j], a[j], g, W, rows)
                for m in range(rows):
                    for j in range(J):
                        source = o[j, m * lanes : m * lanes + n]
                        for d in range(n):
                            row[d * J + j] = source[d]
                    _give(grads, row, start + (k + m) * dilation, i, c0 * J, c1 * J)
            for d in range((W - 1) * lanes):
                g[d] = g[TILE * lanes + d]
        for j in range(J):
            for m in range(W):
                target = parts[s * dilation + phase, j, W - 1 - m, c0:c1]
                for d in range(n):
                    target[d] = dtaps[j, m * lanes + d]


@compile_kernel
def _load_taps(taps, w, c0, c1, flipped):
    """The taps of a job by row, from the last one if `flipped`."""
    (J, W, _), lanes = w.shape, taps.shape[1] // w.shape[1]
    taps[:] = 0
    for j in range(J):
        for n in range(W):
            at = (W - 1 - n if flipped else n) * lanes
            for d in range(c1 - c0):
                taps[j, at + d] = w[j, n, c0 + d]


@compile_kernel
def _read(row, x, parameters, convs, mean, rstd, r, s, i, q0, q1):
    """Channels q0 to q1 of what layer i reads in row r: the o before it, then x."""
    C = x.shape[1]
    for block in range(q0 // C, i + 1):
        c0, c1 = max(q0 - block * C, 0), min(q1 - block * C, C)
        if c0 < c1:
            at = block * C + c0 - q0
            target, layer = row[at : at + c1 - c0], i - 1 - block
            if block == i:
                source = x[r, c0:c1]
                for d in range(len(source)):
                    target[d] = widen(source[d])
            else:
                _activated(
                    target, convs[layer, r, c0:c1], mean[layer, s, c0:c1], rstd[layer, s, c0:c1],
                    parameters[layer, :, c0:c1],
                )  # fmt: skip


@compile_kernel
def _give(grads, row, r, i, q0, q1):
    """Hand the gradients of channels q0 to q1 of what layer i reads on to whom they belong."""
    C = grads.shape[2]
    for block in range(q0 // C, i + 1):
        c0, c1 = max(q0 - block * C, 0), min(q1 - block * C, C)
        if c0 < c1:
            at = block * C + c0 - q0
            source, target = row[at : at + c1 - c0], grads[i - block, r, c0:c1]
            if i + 1 == len(grads):
                for d in range(len(source)):
                    target[d] = source[d]
            else:
                for d in range(len(source)):
                    target[d] += source[d]


@compile_kernel
def _tear(a, m, row, n, inside):
    """Row m of each of the J neighbours from a row that holds them side by side."""
    J, lanes = a.shape[0], len(row) // a.shape[0]
    a[:, m * lanes : (m + 1) * lanes] = 0
    if not inside:
        return
    if J == 2:  # a loop of its own, of which the compiler makes vectors
        even, odd = a[0, m * lanes : m * lanes + n], a[1, m * lanes : m * lanes + n]
        for d in range(n):
            even[d] = row[2 * d]
            odd[d] = row[2 * d + 1]
        return
    for j in range(J):
        target = a[j, m * lanes : m * lanes + n]
        for d in range(n):
            target[d] = row[J * d + j]


@compile_kernel
def _parameters(parameters, c0, c1):
    return parameters[0, c0:c1], parameters[1, c0:c1], parameters[2, c0:c1]


@compile_kernel
def _activated(row, a, mean, rstd, parameters):
    """o = PReLU(gain xh + shift) of one row of a."""
    gain, shift, slope = _parameters(parameters, 0, parameters.shape[1])
    for d in range(len(a)):
        z = gain[d] * ((a[d] - mean[d]) * rstd[d]) + shift[d]
        row[d] = z if z > 0 else slope[d] * z


@compile_kernel
def _differentiate(da, a, do, mean, rstd, parameters, means, c0, c1):
    """da = rstd gain (dz - mean of dz - xh mean of dz xh) of one row."""
    gain, shift, slope = _parameters(parameters, c0, c1)
    level, tilt = means[0, c0:c1], means[1, c0:c1]
    for d in range(len(da)):
        g = widen(do[d])
        xh = (a[d] - mean[d]) * rstd[d]
        dz = g if gain[d] * xh + shift[d] > 0 else slope[d] * g
        da[d] = rstd[d] * gain[d] * (dz - level[d] - xh * tilt[d])
