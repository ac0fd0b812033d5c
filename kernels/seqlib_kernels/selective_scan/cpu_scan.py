# SPDX-License-Identifier: Apache-2.0
"""The compiled loops of the selective scan on CPUs; cpu.py cuts a call into jobs for them.

A job is one sequence and up to LANES channels of one group. It walks through time in pieces of
PIECE steps, and inside a piece takes one state index n after the other: all that a sweep of the
piece touches then lies in the L1 cache. Work arrays are rows of LANES channels, those past the
job's last channel zero, so that every inner loop has a fixed length; rows that one loop uses
together lie in one array at fixed distances, so that the compiler sees that they don't overlap.
"""

import numpy as np

from .._core.exponential import exp, sigmoid, softplus, softplus_slope
from .._core.lowp import narrow, widen
from .._core.rows import compile_kernel

LANES = 64  # channels of a job
PIECE = 32  # steps between two states that the forward pass keeps; a power of two

# Rows of a step: what the states are advanced with, what is read from them, and gradients.
_DELTA, _INPUT, _Y, _DY, _DINPUT, _DDELTA = (LANES * i for i in range(6))
_STEP_ROWS = 6
# Rows of one state index: A, the state, a[t+1] times the gradient of the state, that of A.
_A, _H, _CARRY, _DA = (LANES * i for i in range(4))
_INDEX_ROWS = 4
# Rows of one state index and step: the state before, exp(Delta A); then the state after.
_BEFORE, _E, _AFTER = (LANES * i for i in range(3))
_KEPT_ROWS = 2
# Rows of the job: the bias of dt, the skip's factor, and the gradients of both.
_BIAS, _SKIP, _DBIAS, _DSKIP = (LANES * i for i in range(4))


@compile_kernel
def forward(inputs, h0, y, hT, states, flags, bounds, groups, first, last):
    """y and hT; `states` at the start of every piece if they are to be kept."""
    u, dt, A, B, C, D, z, dt_bias = inputs
    softplus_dt, negative, gated, keep = flags
    N = A.shape[1]
    steps, indices, kept, job = _work(h0, N)
    for number in range(first, last):
        s, g, _, d0, d1 = _job(number, A.shape[0], groups)
        _load_job(indices, job, A, D, dt_bias, h0, s, d0, d1)
        slot = bounds[s] // PIECE + s
        for t0 in range(bounds[s], bounds[s + 1], PIECE):
            t1 = min(t0 + PIECE, bounds[s + 1])
            if keep:
                _store_states(states[slot], indices, d0, d1)
                slot += 1
            for t in range(t0, t1):
                _load_step(steps[t - t0], job, u[t, d0:d1], dt[t, d0:d1], softplus_dt)
            for n in range(N):
                _sweep(steps, indices[n], kept, B, C, t0, t1, g, n, negative)
            for t in range(t0, t1):
                _finish(y[t, d0:d1], steps[t - t0], job, u[t, d0:d1], z[t, d0:d1], gated)
        for n in range(N):
            for d in range(d1 - d0):
                hT[s, d0 + d, n] = indices[n, _H + d]


@compile_kernel
def backward(inputs, states, dy, dhT, grads, flags, bounds, groups, first, last):
    """All gradients; those of B and C by block of channels, those without time by sequence."""
    u, dt, A, B, C, D, z, dt_bias = inputs
    du, ddt, dz, dB, dC, sums, dh0 = grads
    softplus_dt, negative, gated, _ = flags
    N = A.shape[1]
    steps, indices, kept, job = _work(dhT, N)
    for number in range(first, last):
        s, g, block, d0, d1 = _job(number, A.shape[0], groups)
        _load_job(indices, job, A, D, dt_bias, dhT, s, d0, d1)
        for n in range(N):
            for d in range(LANES):
                indices[n, _CARRY + d] = indices[n, _H + d]
                indices[n, _DA + d] = 0
        pieces = (bounds[s + 1] - bounds[s] + PIECE - 1) // PIECE
        for piece in range(pieces - 1, -1, -1):
            t0 = bounds[s] + piece * PIECE
            t1 = min(t0 + PIECE, bounds[s + 1])
            _load_states(indices, states[bounds[s] // PIECE + s + piece], d0, d1)
            for t in range(t0, t1):
                step = steps[t - t0]
                _load_step(step, job, u[t, d0:d1], dt[t, d0:d1], softplus_dt)
                _load_gradient(step, dy[t, d0:d1], z[t, d0:d1], gated)
            for n in range(N):
                _sweep(steps, indices[n], kept, B, C, t0, t1, g, n, negative)
                _sweep_back(
                    steps, indices[n], kept, B, C, dB[block], dC[block], t0, t1, g, n, negative
                )
            for t in range(t1 - 1, t0 - 1, -1):
                step = steps[t - t0]
                if gated:
                    _finish_gate(dz[t, d0:d1], step, job, u[t, d0:d1], z[t, d0:d1], dy[t, d0:d1])
                _finish_back(
                    du[t, d0:d1], ddt[t, d0:d1], step, job, u[t, d0:d1], dt[t, d0:d1], softplus_dt
                )
        for d in range(d1 - d0):
            for n in range(N):
                sums[s, n, d0 + d] = indices[n, _DA + d]
                dh0[s, d0 + d, n] = indices[n, _CARRY + d]
            sums[s, N, d0 + d] = job[_DSKIP + d]
            sums[s, N + 1, d0 + d] = job[_DBIAS + d]


@compile_kernel
def _job(number, D, groups):
    """Sequence, group, block within the group, and channels [d0, d1) of a job."""
    width = D // groups
    blocks = (width + LANES - 1) // LANES
    s, rest = number // (groups * blocks), number % (groups * blocks)
    g, block = rest // blocks, rest % blocks
    d0 = g * width + block * LANES
    return s, g, block, d0, min(d0 + LANES, (g + 1) * width)


@compile_kernel
def _work(like, N):
    """The work arrays: rows per step, per state index, per both for one index, and of the job."""
    steps = np.zeros((PIECE, _STEP_ROWS * LANES), like.dtype)
    indices = np.zeros((N, _INDEX_ROWS * LANES), like.dtype)
    kept = np.zeros((PIECE + 1) * _KEPT_ROWS * LANES, like.dtype)
    return steps, indices, kept, np.zeros(4 * LANES, like.dtype)


@compile_kernel
def _load_job(indices, job, A, D, dt_bias, state, s, d0, d1):
    indices[:] = 0
    job[:] = 0
    for d in range(d1 - d0):
        for n in range(A.shape[1]):
            indices[n, _A + d] = A[d0 + d, n]
            indices[n, _H + d] = state[s, d0 + d, n]
        job[_BIAS + d] = dt_bias[d0 + d]
        job[_SKIP + d] = D[d0 + d]


@compile_kernel
def _store_states(states, indices, d0, d1):
    for n in range(indices.shape[0]):
        target, source = states[n, d0:d1], indices[n]
        for d in range(d1 - d0):
            target[d] = source[_H + d]


@compile_kernel
def _load_states(indices, states, d0, d1):
    for n in range(indices.shape[0]):
        target, source = indices[n], states[n, d0:d1]
        for d in range(d1 - d0):
            target[_H + d] = source[d]


@compile_kernel
def _load_step(step, job, u, dt, softplus_dt):
    """Delta and Delta u, and nothing yet in rows that add up or past the last channel."""
    zero = step.dtype.type(0)
    for d in range(len(u)):
        step[_DELTA + d] = widen(dt[d]) + job[_BIAS + d]
    if softplus_dt:
        for d in range(len(u)):
            step[_DELTA + d] = softplus(step[_DELTA + d])
    for d in range(len(u)):
        step[_INPUT + d] = step[_DELTA + d] * widen(u[d])
    for d in range(len(u), LANES):
        step[_DELTA + d] = zero
        step[_INPUT + d] = zero
        step[_DY + d] = zero
    for d in range(LANES):
        step[_Y + d] = zero
        step[_DINPUT + d] = zero
        step[_DDELTA + d] = zero


@compile_kernel
def _load_gradient(step, dy, z, gated):
    """The gradient of what the states' readers summed: that of y through the gate."""
    if gated:
        for d in range(len(dy)):
            gate = widen(z[d])
            step[_DY + d] = widen(dy[d]) * (gate * sigmoid(gate))
    else:
        for d in range(len(dy)):
            step[_DY + d] = widen(dy[d])


@compile_kernel
def _map(negative, like):
    """(scale, shift) of a = scale exp(Delta A) + shift"""
    return like.dtype.type(2 if negative else 1), like.dtype.type(-1 if negative else 0)


@compile_kernel
def _sweep(steps, index, kept, B, C, t0, t1, g, n, negative):
    """h[t] = a[t] h[t-1] + Delta[t] u[t] B[t]; y[t] += h[t] C[t], for state index n of a piece."""
    scale, shift = _map(negative, index)
    for d in range(LANES):
        kept[d] = index[_H + d]
    for t in range(t0, t1):
        i = t - t0
        step, here = steps[i], kept[i * _KEPT_ROWS * LANES :]
        b, c = widen(B[t, g, n]), widen(C[t, g, n])
        for d in range(LANES):
            e = exp(step[_DELTA + d] * index[_A + d])
            here[_E + d] = e
            h = (scale * e + shift) * here[_BEFORE + d] + step[_INPUT + d] * b
            here[_AFTER + d] = h
            step[_Y + d] += h * c
    last = kept[(t1 - t0) * _KEPT_ROWS * LANES :]
    for d in range(LANES):
        index[_H + d] = last[d]


@compile_kernel
def _sweep_back(steps, index, kept, B, C, dB, dC, t0, t1, g, n, negative):
    """The gradients of one sweep; `index` carries a[t+1] g[t+1], g the gradient of h[t]."""
    scale, shift = _map(negative, index)
    for t in range(t1 - 1, t0 - 1, -1):
        # The mask, which changes nothing, hides that rows descend: where it sees that, the
        # compiler runs its loop without vectors.
        i = (t - t0) & (PIECE - 1)
        step, here = steps[i], kept[i * _KEPT_ROWS * LANES :]
        b, c = widen(B[t, g, n]), widen(C[t, g, n])
        db = dc = index.dtype.type(0)
        for d in range(LANES):
            dh = step[_DY + d] * c + index[_CARRY + d]
            db += dh * step[_INPUT + d]
            dc += step[_DY + d] * here[_AFTER + d]
            step[_DINPUT + d] += dh * b
            slope = scale * here[_E + d]  # of a by Delta A, from h[t-1] itself
            w = dh * slope * here[_BEFORE + d]
            step[_DDELTA + d] += w * index[_A + d]
            index[_DA + d] += w * step[_DELTA + d]
            index[_CARRY + d] = (slope + shift) * dh
        dB[t, g, n] = db
        dC[t, g, n] = dc


@compile_kernel
def _finish(y, step, job, u, z, gated):
    """y = (what was read + D u) silu(z)"""
    for d in range(len(u)):
        step[_Y + d] += job[_SKIP + d] * widen(u[d])
    if gated:
        for d in range(len(u)):
            gate = widen(z[d])
            step[_Y + d] *= gate * sigmoid(gate)
    for d in range(len(u)):
        y[d] = narrow(step[_Y + d], y[d])


@compile_kernel
def _finish_gate(dz, step, job, u, z, dy):
    one = step.dtype.type(1)
    for d in range(len(u)):
        y = step[_Y + d] + job[_SKIP + d] * widen(u[d])
        gate = widen(z[d])
        s = sigmoid(gate)
        dz[d] = narrow(widen(dy[d]) * y * (s * (one + gate * (one - s))), dz[d])


@compile_kernel
def _finish_back(du, ddt, step, job, u, dt, softplus_dt):
    """du and ddt of one step, and its shares in those of D and dt_bias."""
    for d in range(len(u)):
        x = widen(u[d])
        gradient = step[_DELTA + d] * step[_DINPUT + d] + job[_SKIP + d] * step[_DY + d]
        du[d] = narrow(gradient, du[d])
        job[_DSKIP + d] += step[_DY + d] * x
        step[_DDELTA + d] += step[_DINPUT + d] * x
    if softplus_dt:
        for d in range(len(u)):
            step[_DDELTA + d] *= softplus_slope(widen(dt[d]) + job[_BIAS + d])
    for d in range(len(u)):
        job[_DBIAS + d] += step[_DDELTA + d]
        ddt[d] = narrow(step[_DDELTA + d], ddt[d])
