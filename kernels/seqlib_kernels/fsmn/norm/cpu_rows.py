# SPDX-License-Identifier: Apache-2.0
"""The compiled loops of normalisation over sequences; the dense memory shares them.

Sums over time are jobs of one sequence and up to LANES channels, in tiles of TILE rows that are
merged one after the other: neither depends on threads. What works row by row is cut anywhere.
"""

import numpy as np

from ..._core.lowp import narrow, widen
from ..._core.rows import compile_kernel

LANES = 128  # channels of a job
TILE = 32  # rows whose mean is known before their squares are added


def jobs(sequences: int, C: int) -> int:
    """How many jobs sums over time are."""
    return sequences * -(-C // LANES)


@compile_kernel
def job(number, C):
    """Sequence and channels [c0, c1) of a job."""
    blocks = (C + LANES - 1) // LANES
    c0 = number % blocks * LANES
    return number // blocks, c0, min(c0 + LANES, C)


@compile_kernel
def moments(x, bounds, mean, m2, first, last):
    """The mean and the sum of squared distances from it, [N,C].

    What is summed are distances from the first row: a large mean would be rounded in every tile.
    """
    pivot = np.zeros(LANES, mean.dtype)
    centre = np.zeros(LANES, mean.dtype)
    squares = np.zeros(LANES, mean.dtype)
    for number in range(first, last):
        s, c0, c1 = job(number, x.shape[1])
        mean[s, c0:c1] = 0
        m2[s, c0:c1] = 0
        if bounds[s] < bounds[s + 1]:
            row = x[bounds[s], c0:c1]
            for d in range(len(row)):
                pivot[d] = widen(row[d])
        for r0 in range(bounds[s], bounds[s + 1], TILE):
            r1 = min(r0 + TILE, bounds[s + 1])
            rows, seen = mean.dtype.type(r1 - r0), mean.dtype.type(r0 - bounds[s])
            centre[:] = 0
            squares[:] = 0
            for r in range(r0, r1):
                row = x[r, c0:c1]
                for d in range(len(row)):
                    centre[d] += widen(row[d]) - pivot[d]
            for d in range(c1 - c0):
                centre[d] /= rows
            for r in range(r0, r1):
                row = x[r, c0:c1]
                for d in range(len(row)):
                    distance = (widen(row[d]) - pivot[d]) - centre[d]
                    squares[d] += distance * distance
            share = rows / (seen + rows)
            for d in range(c1 - c0):
                apart = centre[d] - mean[s, c0 + d]
                mean[s, c0 + d] += apart * share
                m2[s, c0 + d] += squares[d] + apart * apart * (seen * share)
        if bounds[s] < bounds[s + 1]:
            for d in range(c1 - c0):
                mean[s, c0 + d] += pivot[d]


@compile_kernel
def sequence_at(bounds, r):
    """The sequence that row r belongs to."""
    return np.searchsorted(bounds, r, "right") - 1


@compile_kernel
def normalise(x, weight, bias, mean, rstd, y, bounds, first, last):
    """y = weight (x - mean) rstd + bias, for rows first to last."""
    s = sequence_at(bounds, first)
    for r in range(first, last):
        while r >= bounds[s + 1]:
            s += 1
        source, target, centre, scale = x[r], y[r], mean[s], rstd[s]
        for d in range(len(source)):
            xh = (widen(source[d]) - centre[d]) * scale[d]
            target[d] = narrow(weight[d] * xh + bias[d], target[d])


@compile_kernel
def gradient_sums(dy, x, mean, rstd, bounds, sums, first, last):
    """The sums of dy and of dy xh over time, [2,N,C]."""
    part = np.zeros((2, LANES), mean.dtype)
    for number in range(first, last):
        s, c0, c1 = job(number, x.shape[1])
        centre, scale = mean[s, c0:c1], rstd[s, c0:c1]
        sums[:, s, c0:c1] = 0
        for r0 in range(bounds[s], bounds[s + 1], TILE):
            part[:] = 0
            for r in range(r0, min(r0 + TILE, bounds[s + 1])):
                source, grad = x[r, c0:c1], dy[r, c0:c1]
                for d in range(len(source)):
                    g = widen(grad[d])
                    part[0, d] += g
                    part[1, d] += g * ((widen(source[d]) - centre[d]) * scale[d])
            for k in range(2):
                for d in range(c1 - c0):
                    sums[k, s, c0 + d] += part[k, d]


@compile_kernel
def gradients(dy, x, mean, rstd, scale, inner, first_mean, second_mean, dx, bounds, first, last):
    """dx = scale (inner dy - first_mean - xh second_mean), for rows first to last."""
    s = sequence_at(bounds, first)
    for r in range(first, last):
        while r >= bounds[s + 1]:
            s += 1
        source, grad, target = x[r], dy[r], dx[r]
        centre, width, factor = mean[s], rstd[s], scale[s]
        level, slope = first_mean[s], second_mean[s]
        for d in range(len(source)):
            xh = (widen(source[d]) - centre[d]) * width[d]
            rest = inner[d] * widen(grad[d]) - level[d] - xh * slope[d]
            target[d] = narrow(factor[d] * rest, target[d])
