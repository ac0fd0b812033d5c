# SPDX-License-Identifier: Apache-2.0
"""What the loops of cpu_taps.py do with one row of a job, and with the rows of a tile.

A job is (start, count, dilation, c0, c1, J): row i of `count` is row start + i dilation of all rows
of the call, outputs are the channels c0 to c1, each with J inputs, of which j is one.
"""

from ..._core.exponential import sigmoid
from ..._core.lowp import narrow, widen
from ..._core.rows import compile_kernel, padded
from ..._core.vectors import load, store, width, zeros

LANES = 256  # output channels of a job at most
TILE = 32  # rows of a tile, a multiple of ROWS
ROWS = 8  # outputs that registers hold side by side
TAPS = 6  # gradients of taps that registers hold side by side


@compile_kernel
def lanes_of(C):
    """How many numbers a row of a job takes: whole vectors."""
    return min(LANES, padded(C))


@compile_kernel
def find_job(number, bounds, C, J, dilation):
    """The sequence and phase of a job, and the job itself."""
    lanes = lanes_of(C)
    blocks = (C + lanes - 1) // lanes
    rest, phase = number // dilation, number % dilation
    s, c0 = rest // blocks, rest % blocks * lanes
    start = bounds[s] + phase
    count = max(0, (bounds[s + 1] - start + dilation - 1) // dilation)
    return s, phase, (start, count, dilation, c0, min(c0 + lanes, C), J)


@compile_kernel
def load_taps(taps, shift, w, bias, job, flipped):
    """Taps and bias of a job, a row for each tap."""
    _, _, _, c0, c1, J = job
    W, lanes = w.shape[1], shift.shape[1]
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
def copy(row, source, job, j):
    """A row of a state."""
    _, _, _, c0, c1, J = job
    for d in range(c1 - c0):
        row[d] = source[(c0 + d) * J + j]
    row[c1 - c0 :] = 0


@compile_kernel
def put(target, row, job, j):
    """The other way round."""
    _, _, _, c0, c1, J = job
    for d in range(c1 - c0):
        target[(c0 + d) * J + j] = row[d]


@compile_kernel
def add(row, source, job, j):
    _, _, _, c0, c1, J = job
    for d in range(c1 - c0):
        row[d] += source[(c0 + d) * J + j]


@compile_kernel
def load_row(row, dy, job, i):
    """Row i of dy, zero outside of the sequence."""
    start, count, dilation, c0, c1, _ = job
    if i < 0 or i >= count:
        row[:] = 0
        return
    source = dy[start + i * dilation, c0:c1]
    for d in range(len(source)):
        row[d] = widen(source[d])
    row[len(source) :] = 0


@compile_kernel
def store_row(y, row, job, i):
    start, _, dilation, c0, c1, _ = job
    target = y[start + i * dilation, c0:c1]
    for d in range(len(target)):
        target[d] = narrow(row[d], target[d])


@compile_kernel
def activate(row, x, scale, shift, job, i, j, silu):
    """a = act(z) of row i, zero outside of the sequence."""
    if i < 0 or i >= job[1]:
        row[:] = 0
        return
    _shifted(row, x, scale, shift, job, i, j)
    if silu:
        for d in range(len(row)):
            row[d] *= sigmoid(row[d])


@compile_kernel
def slopes(row, slope, x, scale, shift, job, i, j, silu):
    """a = act(z) of row i, and act'(z)."""
    one = row.dtype.type(1)
    _shifted(row, x, scale, shift, job, i, j)
    if silu:
        for d in range(len(row)):
            z = row[d]
            s = sigmoid(z)
            row[d] = z * s
            slope[d] = s * (one + z * (one - s))


@compile_kernel
def _shifted(row, x, scale, shift, job, i, j):
    """z = scale x + bias"""
    start, _, dilation, c0, c1, J = job
    r = start + i * dilation
    factor = scale[r]
    if J == 1:  # a loop of its own, of which the compiler makes vectors
        source = x[r, c0:c1]
        for d in range(len(source)):
            row[d] = widen(source[d]) * factor + shift[d]
    else:
        for d in range(c1 - c0):
            row[d] = widen(x[r, (c0 + d) * J + j]) * factor + shift[d]
    row[c1 - c0 :] = 0


@compile_kernel
def finish(dx, dshift, da, slope, x, scale, job, i, j):
    """dx of row i, its share of dbias; returns its share of the gradient of its scale."""
    start, _, dilation, c0, c1, J = job
    r = start + i * dilation
    factor, part = scale[r], da.dtype.type(0)
    if J == 1:
        source, target = x[r, c0:c1], dx[r, c0:c1]
        for d in range(len(source)):
            dz = da[d] * slope[d]
            dshift[d] += dz
            part += dz * widen(source[d])
            target[d] = narrow(dz * factor, target[d])
    else:
        for d in range(c1 - c0):
            at = (c0 + d) * J + j
            dz = da[d] * slope[d]
            dshift[d] += dz
            part += dz * widen(x[r, at])
            dx[r, at] = narrow(dz * factor, dx[r, at])
    return part


@compile_kernel
def convolve(o, a, taps, W, rows):
    """o[k] += sum over n of taps[n] a[k + n], for `rows` rows; k goes on to a multiple of ROWS"""
    lanes = len(o) // TILE
    for first in range(0, rows * lanes, ROWS * lanes):
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
def correlate(dtaps, a, g, W, rows):
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
