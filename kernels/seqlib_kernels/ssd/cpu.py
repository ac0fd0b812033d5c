# SPDX-License-Identifier: Apache-2.0
"""The state-space dual on CPUs: outputs, and jobs for threads. The kernels are in cpu_chunk.py."""

import numpy as np
import torch
from torch import Tensor

from .._core import alloc, threads
from .._core.dtypes import state_dtype
from .cpu_chunk import SPAN, backward, forward


def saved_shapes(x: Tensor, B: Tensor, sequences: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """The states kept for the backward pass, one per SPAN tokens and one more per sequence."""
    spans = x.shape[0] * x.shape[1] // SPAN + sequences
    return [((spans, x.shape[2], B.shape[3], x.shape[3]), state_dtype(x.dtype))]


def ssd_fwd(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    a: Tensor,
    delta: Tensor | None,
    D: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y [B,T,H,P], hT [Nseq,H,P,N] and the states that `ssd_bwd` starts from."""
    plan = _Plan(x, B, cu_seqlens)
    shapes = saved_shapes(x, B, plan.sequences) if save else []
    saved = [alloc.empty(shape, x, dtype) for shape, dtype in shapes]
    y = alloc.empty(x.shape, a)
    hT = alloc.empty((plan.sequences, *x.shape[2:], B.shape[3]), a)
    hT.copy_(h0) if h0 is not None else hT.zero_()
    plan.run(
        forward,
        *(_rows(z, a.dtype) for z in (x, B, C, a)),
        _rows(a if delta is None else delta, a.dtype),
        (a.new_zeros(x.shape[2]) if D is None else D).detach().numpy(),
        hT.numpy(),
        _rows(y, a.dtype),
        saved[0].numpy() if save else hT.numpy(),
        (delta is not None, D is not None, save),
    )
    return y.to(x.dtype), hT, saved


def ssd_bwd(
    dy: Tensor,
    dhT: Tensor,
    x: Tensor,
    B: Tensor,
    C: Tensor,
    a: Tensor,
    delta: Tensor | None,
    D: Tensor | None,
    h0: Tensor | None,
    saved: list[Tensor],
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """The gradients of x, B, C, a, delta, D and h0."""
    plan = _Plan(x, B, cu_seqlens)
    dx, da, dh0 = alloc.empty(x.shape, a), alloc.empty(a.shape, a), alloc.empty(dhT.shape, dhT)
    dh0.copy_(dhT)
    ddelta = da if delta is None else alloc.empty(a.shape, a)
    # blocks of heads that share B and C write their sums apart; sequences do so for D
    dB, dC = (alloc.empty((plan.blocks, *z.shape), a) for z in (B, C))
    dD = alloc.empty((plan.sequences, x.shape[2]), a)
    plan.run(
        backward,
        *(_rows(z, a.dtype) for z in (x, B, C, a)),
        _rows(a if delta is None else delta, a.dtype),
        (a.new_zeros(x.shape[2]) if D is None else D).detach().numpy(),
        saved[0].numpy(),
        _rows(dy, a.dtype),
        dh0.numpy(),
        (
            _rows(dx, a.dtype),
            *(z.flatten(1, 2).numpy() for z in (dB, dC)),
            *(_rows(z, a.dtype) for z in (da, ddelta)),
            dD.numpy(),
        ),
        (delta is not None, D is not None, True),
    )
    dB, dC = (z[0] if plan.blocks == 1 else z.sum(0) for z in (dB, dC))
    return (
        dx.to(x.dtype),
        dB.to(x.dtype),
        dC.to(x.dtype),
        da,
        None if delta is None else ddelta,
        None if D is None else dD.sum(0),
        dh0,
    )


class _Plan:
    """How one call is cut into jobs, numbered [sequence, group, block of its heads]."""

    def __init__(self, x: Tensor, B: Tensor, cu_seqlens: Tensor | None) -> None:
        batch, T, H = x.shape[:3]
        G, N = B.shape[2:]
        if cu_seqlens is None:
            self.bounds = np.arange(batch + 1, dtype=np.int64) * T
        else:
            self.bounds = cu_seqlens.numpy().astype(np.int64)
        self.sequences = len(self.bounds) - 1
        self.threads = threads.count(x.numel() * N // 8)
        # Heads of a group add to the same dB and dC: they are parted only for threads that would
        # idle.
        groups = max(1, self.sequences * G)
        self.blocks = max(1, min(-(-self.threads // groups), H // G))
        self.jobs = self.sequences * G * self.blocks

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.blocks, first, last)

        threads.split(work, self.jobs, self.threads)


def _rows(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    """[B, T, ...] as rows [B*T, ...] of numbers that numba knows."""
    return x.detach().to(dtype).flatten(0, 1).numpy()
