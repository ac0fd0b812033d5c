# SPDX-License-Identifier: Apache-2.0
"""The state-space dual on CPUs: outputs, and jobs for threads. The kernels are in cpu_chunk.py."""

import numpy as np
import torch
from torch import Tensor

from .._core import alloc, threads
from .._core.lowp import rows
from .._core.varlen import bounds_of
from . import cpu_chunk
from .arguments import Tensors
from .cpu_chunk import SPAN


def saved_shapes(given: Tensors) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """The states kept for the backward pass, one per SPAN tokens and one more per sequence."""
    batch, T, H, P = given.x.shape
    return [((batch * T // SPAN + given.sequences, H, given.B.shape[3], P), given.a.dtype)]


def forward(given: Tensors, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y [B,T,H,P], hT [Nseq,H,P,N] and the states that `backward` starts from."""
    plan, a = _Plan(given), given.a
    saved = [alloc.empty(shape, a, dtype) for shape, dtype in saved_shapes(given) if save]
    y, hT = alloc.empty(given.x.shape, a), alloc.empty(given.state_shape, a)
    hT.copy_(given.h0) if given.h0 is not None else hT.zero_()
    plan.run(
        cpu_chunk.forward,
        *_inputs(given),
        hT.numpy(),
        rows(y),
        (saved[0] if save else hT).numpy(),
        (given.delta is not None, given.D is not None, save),
    )
    return y.to(given.x.dtype), hT, saved


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, saved: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients of x, B, C, a, delta, D and h0."""
    plan, x, a = _Plan(given), given.x, given.a
    dx, da, dh0 = (alloc.empty(z.shape, a) for z in (x, a, dhT))
    dh0.copy_(dhT)
    ddelta = None if given.delta is None else alloc.empty(a.shape, a)
    # blocks of heads that share B and C write their sums apart; sequences do so for D
    dB, dC = (alloc.empty((plan.blocks, *z.shape), a) for z in (given.B, given.C))
    dD = alloc.empty((plan.sequences, x.shape[2]), a)
    plan.run(
        cpu_chunk.backward,
        *_inputs(given),
        saved[0].numpy(),
        rows(dy.to(a.dtype)),
        dh0.numpy(),
        (
            rows(dx),
            *(z.flatten(1, 2).numpy() for z in (dB, dC)),
            *(rows(z) for z in (da, da if ddelta is None else ddelta)),
            dD.numpy(),
        ),
        (ddelta is not None, given.D is not None, True),
    )
    dB, dC = (z[0] if plan.blocks == 1 else z.sum(0) for z in (dB, dC))
    dx, dB, dC = (z.to(x.dtype) for z in (dx, dB, dC))
    return dx, dB, dC, da, ddelta, None if given.D is None else dD.sum(0), dh0


class _Plan:
    """How one call is cut into jobs, numbered [sequence, group, block of its heads]."""

    def __init__(self, given: Tensors) -> None:
        batch, T, H = given.x.shape[:3]
        G, N = given.B.shape[2:]
        self.bounds = bounds_of(given.cu_seqlens, batch, T)
        self.sequences = given.sequences
        self.threads = threads.count(given.x.numel() * N // 8)
        # Heads of a group add to the same dB and dC: they are parted only for threads that would
        # idle.
        groups = max(1, self.sequences * G)
        self.blocks = max(1, min(-(-self.threads // groups), H // G))
        self.jobs = self.sequences * G * self.blocks

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.blocks, first, last)

        threads.split(work, self.jobs, self.threads)


def _inputs(given: Tensors) -> tuple[np.ndarray, ...]:
    """x, B, C, a, delta and D as the kernels read them; something unread for what isn't given."""
    x, B, C, a, delta, D, *_ = given
    delta = a if delta is None else delta
    D = a.new_zeros(x.shape[2]) if D is None else D
    return (*(rows(z.to(a.dtype)) for z in (x, B, C, a, delta)), D.detach().numpy())
