# SPDX-License-Identifier: Apache-2.0
"""The delta rule on CPUs: jobs for threads, and what the kernels of a job read and write."""

import numpy as np
import torch
from torch import Tensor

from .._core import alloc, threads
from .._core.dtypes import state_dtype
from .._core.lowp import array
from .cpu_chunk import CHUNKS, WIDTH, backward, chunk_tokens, forward

Shape = tuple[int, ...]


def saved_shapes(
    q: Tensor, v: Tensor, num_householder: int, sequences: int
) -> list[tuple[Shape, torch.dtype]]:
    """The states kept for the backward pass, one per CHUNKS chunks and one more per sequence."""
    tokens = q.shape[0] * q.shape[1]
    spans = tokens // (CHUNKS * chunk_tokens(num_householder)) + sequences
    return [((spans, v.shape[2], q.shape[3], v.shape[3]), state_dtype(q.dtype))]


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
    """o [B,T,HV,V], hT [N,HV,K,V] and the states that `delta_rule_bwd` starts from."""
    plan = _Plan(q, v, cu_seqlens)
    o = alloc.empty((*q.shape[:2], *v.shape[2:]), q)
    hT = alloc.empty((plan.sequences, v.shape[2], q.shape[3], v.shape[3]), beta)
    hT.copy_(h0) if h0 is not None else hT.zero_()
    shapes = saved_shapes(q, v, num_householder, plan.sequences) if save else []
    saved = [alloc.empty(shape, q, dtype) for shape, dtype in shapes]
    states = saved[0] if save else hT
    plan.run(
        forward,
        *(_rows(x) for x in (q, k, v, beta)),
        _rows(beta if decay is None else decay),
        array(hT),
        _rows(o),
        array(states),
        (scale, normalize_qk, num_householder, decay is not None, save),
    )
    return o, hT, saved


def delta_rule_bwd(
    do: Tensor,
    dhT: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    saved: list[Tensor],
    cu_seqlens: Tensor | None,
    scale: float,
    normalize_qk: bool,
    num_householder: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """The gradients of q, k, v, beta, decay and h0."""
    plan = _Plan(q, v, cu_seqlens)
    group = v.shape[2] // q.shape[2]
    dq, dk = (_Parts(x, plan.blocks, group) for x in (q, k))
    dbeta = _Parts(beta, plan.blocks, 1)
    ddecay = _Parts(beta if decay is None else decay, plan.blocks, 1)
    dv, dh0 = alloc.empty(v.shape, v), alloc.empty(dhT.shape, dhT)
    dh0.copy_(dhT)
    plan.run(
        backward,
        *(_rows(x) for x in (q, k, v, beta)),
        _rows(beta if decay is None else decay),
        array(saved[0]),
        _rows(do),
        array(dh0),
        (dq.parts, dk.parts, _rows(dv), dbeta.parts, ddecay.parts),
        (scale, normalize_qk, num_householder, decay is not None, True),
    )
    return dq.sum(), dk.sum(), dv, dbeta.sum(), None if decay is None else ddecay.sum(), dh0


class _Plan:
    """How one call is cut into jobs, numbered [sequence, value head, block of value columns]."""

    def __init__(self, q: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> None:
        B, T, _, K = q.shape
        HV, V = v.shape[2:]
        if cu_seqlens is None:
            self.bounds = np.arange(B + 1, dtype=np.int64) * T
        else:
            self.bounds = cu_seqlens.numpy().astype(np.int64)
        self.sequences = len(self.bounds) - 1
        self.threads = threads.count(v.numel() * K // 8)
        heads = max(1, self.sequences * HV)
        # Columns are cut only for threads that would idle: every block repeats what keys need.
        self.blocks = max(1, min(self.threads // heads, -(-V // WIDTH)))
        self.jobs = self.sequences * HV * self.blocks

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.blocks, first, last)

        threads.split(work, self.jobs, self.threads)


class _Parts:
    """A gradient to which several jobs contribute: one part each, then a sum in fixed order."""

    def __init__(self, x: Tensor, blocks: int, group: int) -> None:
        self.shape, self.dtype = x.shape, x.dtype
        heads = x.shape[2] * group
        single = blocks * group == 1
        self.buffer = alloc.empty(
            (blocks, x.shape[0] * x.shape[1], heads, *x.shape[3:]),
            x,
            x.dtype if single else state_dtype(x.dtype),
        )
        self.parts = array(self.buffer)

    def sum(self) -> Tensor:
        blocks, _, heads = self.buffer.shape[:3]
        group = heads // self.shape[2] if self.shape[2] else 1
        if blocks * group == 1:
            return self.buffer.view(self.shape)
        parts = self.buffer.view(blocks, *self.shape[:3], group, *self.shape[3:])
        return parts.sum((0, 4)).to(self.dtype)


def _rows(x: Tensor) -> np.ndarray:
    """[B, T, ...] as rows [B*T, ...]."""
    return array(x.view(-1, *x.shape[2:]))
