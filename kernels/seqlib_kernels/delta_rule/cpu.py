# SPDX-License-Identifier: Apache-2.0
"""The delta rule on CPUs: outputs, and jobs for threads. The kernels are in cpu_chunk.py."""

import numpy as np
import torch
from torch import Tensor

from .._core import alloc, threads
from .._core.dtypes import state_dtype
from .._core.lowp import rows
from .._core.rows import WIDTH
from .._core.varlen import bounds_of
from .cpu_chunk import CHUNKS, backward, chunk_tokens, forward


def saved_shapes(
    q: Tensor, v: Tensor, num_householder: int, sequences: int
) -> list[tuple[tuple[int, ...], torch.dtype]]:
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
    shapes = saved_shapes(q, v, num_householder, plan.sequences) if save else []
    saved = [alloc.empty(shape, q, dtype) for shape, dtype in shapes]
    o = alloc.empty((*q.shape[:2], *v.shape[2:]), beta)
    hT = alloc.empty((plan.sequences, v.shape[2], q.shape[3], v.shape[3]), beta)
    hT.copy_(h0) if h0 is not None else hT.zero_()
    plan.run(
        forward,
        *(rows(x.to(beta.dtype)) for x in (q, k, v, beta)),
        rows((beta if decay is None else decay).to(beta.dtype)),
        hT.numpy(),
        rows(o),
        saved[0].numpy() if save else hT.numpy(),
        (scale, normalize_qk, num_householder, decay is not None, save),
    )
    return o.to(q.dtype), hT, saved


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
    dq, dk = (_Parts(x, beta.dtype, plan.blocks, group) for x in (q, k))
    dbeta = _Parts(beta, beta.dtype, plan.blocks)
    ddecay = dbeta if decay is None else _Parts(decay, beta.dtype, plan.blocks)
    dv, dh0 = alloc.empty(v.shape, beta), alloc.empty(dhT.shape, beta)
    dh0.copy_(dhT)
    plan.run(
        backward,
        *(rows(x.to(beta.dtype)) for x in (q, k, v, beta)),
        rows((beta if decay is None else decay).to(beta.dtype)),
        saved[0].numpy(),
        rows(do.to(beta.dtype)),
        dh0.numpy(),
        (dq.rows(), dk.rows(), rows(dv), dbeta.rows(), ddecay.rows()),
        (scale, normalize_qk, num_householder, decay is not None, True),
    )
    ddecay = None if decay is None else ddecay.sum()
    return dq.sum(), dk.sum(), dv.to(v.dtype), dbeta.sum(), ddecay, dh0


class _Plan:
    """How one call is cut into jobs, numbered [sequence, value head, block of value columns]."""

    def __init__(self, q: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> None:
        B, T, _, K = q.shape
        HV, V = v.shape[2:]
        self.bounds = bounds_of(cu_seqlens, B, T)
        self.sequences = len(self.bounds) - 1
        self.threads = threads.count(v.numel() * K // 8)
        # Columns are cut only for threads that would idle: every block repeats what keys need.
        heads = max(1, self.sequences * HV)
        self.blocks = max(1, min(self.threads // heads, -(-V // WIDTH)))
        self.jobs = self.sequences * HV * self.blocks

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.blocks, first, last)

        threads.split(work, self.jobs, self.threads)


class _Parts:
    """A gradient that several jobs share in: a part for each, summed in a fixed order."""

    def __init__(self, x: Tensor, dtype: torch.dtype, blocks: int, group: int = 1) -> None:
        self.x, self.group = x, group
        shape = (blocks, *x.shape[:3], group, *x.shape[3:])
        self.parts = alloc.empty(shape, x, dtype)

    def rows(self) -> np.ndarray:
        """[blocks, B*T, HV, ...]"""
        return self.parts.flatten(3, 4).flatten(1, 2).numpy()

    def sum(self) -> Tensor:
        if self.parts.shape[0] * self.group == 1:
            return self.parts.view(self.x.shape).to(self.x.dtype)
        return self.parts.sum((0, 4)).to(self.x.dtype)
