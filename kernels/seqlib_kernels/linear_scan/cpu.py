# SPDX-License-Identifier: Apache-2.0
"""The linear scan on CPUs: whole rows stream through numba kernels, the state stays in cache.

Kernels see [B, T, D] as rows [B*T, D]; `bounds` holds the first row of each sequence and the end
of the last. They work through jobs, numbered [sequence, segment of time, block of channels];
segments are numbered in the order in which the kernel walks through time. `carry` holds the state
that enters each segment and, afterwards, the one that leaves it.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .._core import threads
from .._core.lowp import array, keep, narrow, state_row, widen
from .._core.varlen import bounds_of

# Rows are cut only where they must be: out of cache, narrow blocks run at half the speed.
_NARROWEST, _WIDEST = 1024, 4096
_SHORTEST = 64  # rows in a segment of time

# NaN must pass through, so of the fast-math licences only fused multiply-add is taken.
_compile = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


def forward(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    h: Tensor,
    hT: Tensor,
    reverse: bool,
) -> None:
    """Fill h [B, T, D] and hT [N, D]; every tensor is contiguous."""
    state = array(hT)
    state[:] = 0 if h0 is None else array(h0)
    if not h.numel():
        return
    a_, b_, h_ = (array(x).reshape(-1, x.shape[-1]) for x in (a, b, h))
    plan = _Plan(b, hT, cu_seqlens)
    carry = plan.carries(a_, b_, state, reverse, False)
    plan.run(_scan, a_, b_, h_, carry, reverse)
    plan.finish(carry, state)


def backward(
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    dh: Tensor,
    dhT: Tensor,
    cu_seqlens: Tensor | None,
    da: Tensor,
    db: Tensor,
    dh0: Tensor,
    reverse: bool,
) -> None:
    """Fill da, db [B, T, D] and dh0 [N, D]; every tensor is contiguous."""
    state = array(dh0)
    state[:] = array(dhT)
    if not h.numel():
        return
    # In the dtype of h, like the other states that meet a gradient.
    h0_ = array(torch.zeros_like(dh0, dtype=h.dtype) if h0 is None else h0.to(h.dtype))
    ones = array(torch.ones(h.shape[2], dtype=h.dtype))
    a_, h_, dh_, da_, db_ = (array(x).reshape(-1, x.shape[-1]) for x in (a, h, dh, da, db))
    plan = _Plan(h, dh0, cu_seqlens)
    carry = plan.carries(a_, dh_, state, not reverse, True)
    plan.run(_adjoint, a_, h_, h0_, ones, dh_, da_, db_, carry, reverse)
    plan.finish(carry, state)


class _Plan:
    """How one call is cut into jobs for the threads there are."""

    def __init__(self, x: Tensor, state: Tensor, cu_seqlens: Tensor | None) -> None:
        T, (N, D) = x.shape[1], state.shape
        self.threads = threads.count(x.numel())
        self.bounds = bounds_of(cu_seqlens, N, T)
        self.blocks = -(-D // _WIDEST)
        if N * self.blocks < self.threads:
            self.blocks = max(self.blocks, min(-(-self.threads // N), D // _NARROWEST))
        # Segments read their inputs twice, which two threads can't win back.
        idle = self.threads // max(1, N * self.blocks)
        self.segments = max(1, min(idle, T // _SHORTEST)) if idle > 2 else 1
        self.jobs = N * self.segments * self.blocks

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.segments, self.blocks, first, last)

        threads.split(work, self.jobs, self.threads)

    def carries(
        self, a: np.ndarray, x: np.ndarray, state: np.ndarray, descending: bool, adjoint: bool
    ) -> np.ndarray:
        """The state [N * segments, D] that enters each segment; `state` enters the first."""
        if self.segments == 1:
            return state
        N, D = state.shape
        gain = np.ones((N, self.segments, D), state.dtype)
        carry = np.zeros((N, self.segments, D), state.dtype)
        flat = (-1, D)
        self.run(_summarise, a, x, gain.reshape(flat), carry.reshape(flat), descending, adjoint)
        left = state
        for s in range(self.segments):
            added = carry[:, s].copy()
            carry[:, s] = left
            left = gain[:, s] * left + added
        return carry.reshape(flat)

    def finish(self, carry: np.ndarray, state: np.ndarray) -> None:
        """Copy the state that left the last segment of each sequence into `state` [N, D]."""
        if self.segments > 1:
            state[:] = carry[self.segments - 1 :: self.segments]


@_compile
def _job(bounds, segments, blocks, D, descending, job):
    """The sequence, slot of the carry, rows [t0, t1) and channels [d0, d1) of one job."""
    slot, block = job // blocks, job % blocks
    n, segment = slot // segments, slot % segments
    if descending:
        segment = segments - 1 - segment
    T = bounds[n + 1] - bounds[n]
    t0 = bounds[n] + T * segment // segments
    t1 = bounds[n] + T * (segment + 1) // segments
    return n, slot, t0, t1, D * block // blocks, D * (block + 1) // blocks


@_compile
def _scan(a, b, h, carry, reverse, bounds, segments, blocks, first, last):
    """h[t] = a[t] h[t-1] + b[t]"""
    for job in range(first, last):
        _, slot, t0, t1, d0, d1 = _job(bounds, segments, blocks, a.shape[1], reverse, job)
        scratch = np.empty((2, d1 - d0), carry.dtype)
        before = carry[slot, d0:d1]
        for i in range(t1 - t0):
            t = t1 - 1 - i if reverse else t0 + i
            # Slices first: indices from zero are what the compiler can turn into vectors.
            a_t, b_t, h_t = a[t, d0:d1], b[t, d0:d1], h[t, d0:d1]
            state = state_row(h_t, scratch[i % 2])
            for d in range(d1 - d0):
                x = widen(a_t[d]) * before[d] + widen(b_t[d])
                state[d] = x
                keep(h_t, d, x)
            before = state
        carry[slot, d0:d1] = before


@_compile
def _adjoint(a, h, h0, ones, dh, da, db, carry, reverse, bounds, segments, blocks, first, last):
    """g[t] = dh[t] + a[t+1]* g[t+1];  db[t] = g[t];  da[t] = g[t] h[t-1]*, with * the conjugate"""
    for job in range(first, last):
        n, slot, t0, t1, d0, d1 = _job(bounds, segments, blocks, a.shape[1], not reverse, job)
        scratch = np.empty((2, d1 - d0), carry.dtype)
        start = bounds[n + 1] - 1 if reverse else bounds[n]
        after = carry[slot, d0:d1]
        a_after = ones[d0:d1]
        for i in range(t1 - t0):
            t = t0 + i if reverse else t1 - 1 - i
            h_before = h0[n, d0:d1] if t == start else h[t + 1 if reverse else t - 1, d0:d1]
            dh_t, da_t, db_t = dh[t, d0:d1], da[t, d0:d1], db[t, d0:d1]
            state = state_row(db_t, scratch[i % 2])
            for d in range(d1 - d0):
                g = widen(dh_t[d]) + np.conj(widen(a_after[d])) * after[d]
                state[d] = g
                keep(db_t, d, g)
                da_t[d] = narrow(g * np.conj(widen(h_before[d])), dh_t[d])
            after = state
            a_after = a[t, d0:d1]
        c = carry[slot, d0:d1]
        for d in range(d1 - d0):
            c[d] = np.conj(widen(a_after[d])) * after[d]


@_compile
def _summarise(a, x, gain, carry, descending, adjoint, bounds, segments, blocks, first, last):
    """Each segment as one affine map, state -> gain * state + carry."""
    for job in range(first, last):
        _, slot, t0, t1, d0, d1 = _job(bounds, segments, blocks, a.shape[1], descending, job)
        p, c = gain[slot, d0:d1], carry[slot, d0:d1]
        for i in range(t1 - t0):
            t = t1 - 1 - i if descending else t0 + i
            a_t, x_t = a[t, d0:d1], x[t, d0:d1]
            if adjoint:
                for d in range(d1 - d0):
                    factor = np.conj(widen(a_t[d]))
                    c[d] = factor * (c[d] + widen(x_t[d]))
                    p[d] *= factor
            else:
                for d in range(d1 - d0):
                    factor = widen(a_t[d])
                    c[d] = factor * c[d] + widen(x_t[d])
                    p[d] *= factor
