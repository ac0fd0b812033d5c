# SPDX-License-Identifier: Apache-2.0
"""Launchers of the delta rule's Triton kernels: two launches forward, three backward.

Two more each where sequences are split.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from .._core import alloc
from .._core.backend import interpreting
from .._core.chunks import arithmetic, or_unread
from .._core.dtypes import state_dtype
from .._core.kernels_chunks import TL
from .kernels_bwd import backward_sweep, chunk_gradients
from .kernels_fwd import chunk_matrices, forward_sweep
from .kernels_split import join_segments
from .launch import MAX_K, MAX_NH, chunk_rows, pick, saved_shapes, segment_chunks


class _Plan:
    """What all launches of one call share: sizes, constants, grids."""

    def __init__(
        self,
        q: Tensor,
        v: Tensor,
        cu_seqlens: Tensor | None,
        scale: float,
        normalize_qk: bool,
        num_householder: int,
        decay: Tensor | None,
    ) -> None:
        B, T, H, K = q.shape
        HV, V = v.shape[2:]
        if K > MAX_K:
            raise ValueError(f"q must have a head size K of at most {MAX_K} on a GPU, got {K}")
        if q.dtype == torch.float64 and not interpreting():
            raise TypeError("q must not be float64 on a GPU: use float32, or backend='reference'")
        if num_householder > MAX_NH and not interpreting():
            raise ValueError(
                f"num_householder must be at most {MAX_NH} on a GPU, got {num_householder}"
            )
        self.sequences = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.saved = saved_shapes(q, v, num_householder, self.sequences)
        self.row = pick(q)
        math = arithmetic(q.dtype, self.row)
        self.kept, self.state = math.kept, state_dtype(q.dtype)
        C, Q = chunk_rows(self.row, num_householder)
        BK = min(self.row.tiles["BK"], max(16, triton.next_power_of_2(K)))
        self.segment = segment_chunks(q, v, num_householder, self.sequences)
        self.sizes = (scale, self.sequences, T)
        self.span = (*self.sizes, self.segment)
        self.heads = {"H": H, "HV": HV, "K": K, "NH": num_householder}
        self.narrow = {**self.heads, "C": C, "Q": Q, "BK": BK}
        self.wide = {**self.narrow, "V": V, "BV": self.row.tiles["BV"]}
        self.gates = {"DECAY": decay is not None, "NORMALIZE": normalize_qk}
        self.math: dict[str, Any] = {
            "PACKED": cu_seqlens is not None,
            "ACC": TL[self.state],
            "DOT": TL[math.dot],
            "PRECISION": math.precision,
            # of the triangular solve, whose errors multiply, and of products with its result:
            # where eigenvalues are -1 no error of it ever fades
            "EXACT": math.exact,
        }
        self.by_chunk = (self.saved[0][0][0], HV)
        BV = self.row.tiles["BV"]
        self.by_state = (self.sequences * HV, triton.cdiv(V, BV))
        sweeps = self.saved[3][0][0] if self.segment else self.sequences
        self.by_sweep = (sweeps * HV, triton.cdiv(V, BV))
        self.by_map = (sweeps * HV, triton.cdiv(V, BV) + triton.cdiv(K, BV))
        self.states = (*self.saved[0][0][:2], K, V)

    def constants(self, kernel: Any, sizes: dict[str, int], **flags: bool) -> dict[str, Any]:
        """Constants and compiler options of one kernel, whose row may change tiles for it."""
        return {**sizes, **self.math, **flags, **self.row.compile_options(kernel.__name__)}

    def sweep(self, kernel: Any, *, map: bool = False, **flags: bool) -> dict[str, Any]:
        """The same for a sweep, for whose forms with MAP or SPLIT a row may have options too."""
        split = self.segment > 0
        form = f"{kernel.__name__} {'map' if map else 'split' if split else 'whole'}"
        constants = self.constants(kernel, self.wide, SPLIT=split, MAP=map, **flags)
        return {**constants, **self.row.per_kernel.get(form, {})}

    def join(
        self, ends: Tensor, maps: Tensor, h0: Tensor | None, cu_seqlens: Tensor,
        starts: Tensor, *, reverse: bool,
    ) -> None:  # fmt: skip
        """Fill `starts` with what enters each segment."""
        constants = self.constants(join_segments, self.wide, INITIAL=h0 is not None)
        unknown = ("H", "Q", "DOT", "PRECISION")
        join_segments[self.by_state](
            ends, maps, or_unread(h0, ends), cu_seqlens, starts, *self.span[1:],
            **{n: x for n, x in constants.items() if n not in unknown}, REVERSE=reverse,
        )  # fmt: skip


def delta_rule_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    normalize_qk: bool,
    num_householder: int,
    save: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs, final states and what the backward pass keeps; see `op.py`."""
    plan = _Plan(q, v, cu_seqlens, scale, normalize_qk, num_householder, decay)
    o = alloc.empty((*q.shape[:2], *v.shape[2:]), q)
    hT = alloc.empty((plan.sequences, v.shape[2], q.shape[3], v.shape[3]), q, plan.state)
    mix, attention, factors, *split = saved = [
        alloc.empty(shape, q, dtype) for shape, dtype in plan.saved
    ]
    boundaries = or_unread(cu_seqlens, beta)
    if plan.by_chunk[0] > 0:
        chunk_matrices[plan.by_chunk](
            q, k, beta, or_unread(decay, beta), boundaries, mix, attention, factors,
            *plan.sizes, **plan.constants(chunk_matrices, plan.narrow, **plan.gates),
        )  # fmt: skip
    if plan.segment:
        starts, maps = split
        ends = alloc.empty(starts.shape, starts)
        forward_sweep[plan.by_map](
            q, k, v, beta, hT, mix, attention, factors, boundaries,
            o, ends, maps, hT,
            *plan.span, **plan.sweep(forward_sweep, map=True, INITIAL=False, OUTPUT=False),
        )  # fmt: skip
        plan.join(ends, maps, h0, boundaries, starts, reverse=False)
        h0 = starts
    forward_sweep[plan.by_sweep](
        q, k, v, beta, or_unread(h0, hT), mix, attention, factors, boundaries,
        o, hT, hT, hT,
        *plan.span, **plan.sweep(forward_sweep, INITIAL=h0 is not None, OUTPUT=True),
    )  # fmt: skip
    return o, hT, saved if save else []


def delta_rule_bwd(
    do: Tensor,
    dhT: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    saved: Sequence[Tensor],
    cu_seqlens: Tensor | None,
    scale: float,
    normalize_qk: bool,
    num_householder: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Gradients of q, k, v, beta, decay (or None) and h0; see `op.py`."""
    plan = _Plan(q, v, cu_seqlens, scale, normalize_qk, num_householder, decay)
    mix, attention, factors, *split = saved
    boundaries = or_unread(cu_seqlens, beta)
    states, dstates = (alloc.empty(plan.states, q, plan.kept) for _ in range(2))
    errors, y = (alloc.empty(v.shape, q, plan.kept) for _ in range(2))
    dv, dh0 = alloc.empty(v.shape, v), alloc.empty(dhT.shape, dhT)
    if plan.segment:
        h0, maps = split
    forward_sweep[plan.by_sweep](
        q, k, v, beta, or_unread(h0, dh0), mix, attention, factors, boundaries,
        errors, dh0, states, errors,
        *plan.span, **plan.sweep(forward_sweep, INITIAL=h0 is not None, OUTPUT=False),
    )  # fmt: skip
    tensors = (q, k, beta, do)
    chunks = (mix, attention, factors, boundaries)
    if plan.segment:
        ends, starts = (alloc.empty(h0.shape, h0) for _ in range(2))
        backward_sweep[plan.by_sweep](
            *tensors, dhT, *chunks, ends, dstates, y, dv,
            *plan.span, **plan.sweep(backward_sweep, map=True),
        )  # fmt: skip
        plan.join(ends, maps, dhT, boundaries, starts, reverse=True)
        dhT = starts
    backward_sweep[plan.by_sweep](
        *tensors, dhT, *chunks, dh0, dstates, y, dv,
        *plan.span, **plan.sweep(backward_sweep),
    )  # fmt: skip
    H, HV = plan.heads["H"], plan.heads["HV"]
    shared = HV != H  # then every value head writes its part, and the parts are added in order
    dq, dk = (
        alloc.empty((*x.shape[:2], HV, x.shape[3]), x, plan.state if shared else x.dtype)
        for x in (q, k)
    )
    dbeta = alloc.empty(beta.shape, beta)
    ddecay = None if decay is None else alloc.empty(decay.shape, decay)
    C, Q = plan.narrow["C"], plan.narrow["Q"]
    gates = dbeta if decay is None else alloc.empty((*plan.states[:2], Q, Q), q, plan.kept)
    rows = (*plan.states[:2], C, plan.heads["K"])
    raw = alloc.empty(rows, q, plan.state) if normalize_qk else dbeta
    if plan.by_chunk[0] > 0:
        chunk_gradients[plan.by_chunk](
            q, k, beta, or_unread(decay, beta), do, errors, y, states, dstates, factors, boundaries,
            dq, dk, dbeta, or_unread(ddecay, dbeta), gates, raw,
            *plan.sizes, **plan.constants(chunk_gradients, plan.wide, **plan.gates),
        )  # fmt: skip
    if shared:
        dq, dk = (d.unflatten(2, (H, HV // H)).sum(3).to(q.dtype) for d in (dq, dk))
    return dq, dk, dv, dbeta, ddecay, dh0
