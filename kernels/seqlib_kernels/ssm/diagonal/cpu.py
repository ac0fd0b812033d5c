# SPDX-License-Identifier: Apache-2.0
"""The diagonal state-space model on CPUs: outputs, and jobs for threads."""

import numpy as np
import torch
from torch import Tensor

from ..._core import alloc, threads
from ..._core.dtypes import state_dtype
from ..._core.lowp import array, rows
from ..._core.varlen import bounds_of
from . import cpu_scan
from .arguments import Tensors
from .cpu_rows import LANES, PIECE
from .cpu_scan import GROUP

_NARROWEST = 16  # channels of a job: a register of float32


def piece_length(u: Tensor, modes: int) -> int:
    """How many steps lie between two states that are kept for the backward pass."""
    return PIECE


def forward(given: Tensors, reverse: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,H], hT [Nseq,H,M,2] and the states kept for `backward`; see `op.py`."""
    plan, u = _Plan(given), given.u
    dtype = state_dtype(u.dtype)
    y = alloc.empty(u.shape, u)
    hT = alloc.empty((given.sequences, *given.a.shape), u, dtype)
    slots, *shape = given.states_shape(PIECE)
    states = alloc.empty((slots if save else 0, *shape), u, dtype)
    hT.copy_(given.h0) if given.h0 is not None else hT.zero_()
    kept = array(_as_kept(states))
    plan.run(cpu_scan.forward, *_inputs(given), rows(y), array(hT), kept, save, reverse)
    return y, hT, states


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, states: Tensor, reverse: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of u, a, b, c, D and h0; see `op.py`."""
    plan, u = _Plan(given), given.u
    du, dh0 = alloc.empty(u.shape, u), alloc.empty(dhT.shape, dhT)
    dh0.copy_(dhT)
    # Groups of sequences share in the gradients without time: parts in a fixed order, so that
    # sums don't depend on threads.
    parts = [alloc.empty((plan.groups, *x.shape), x) for x in (given.a, given.b, given.c)]
    skip = alloc.empty((plan.groups, u.shape[2]), u, torch.float64)
    grads = tuple(array(x) for x in (*parts, skip))
    kept = array(_as_kept(states))
    plan.run(
        cpu_scan.backward, *_inputs(given), kept, rows(dy), rows(du), array(dh0), grads, reverse
    )
    dD = None if given.D is None else skip.sum(0).to(given.D.dtype)
    return du, *(part.sum(0) for part in parts), dD, dh0


class _Plan:
    """How one call is cut into jobs, numbered [group of sequences, block of channels]."""

    def __init__(self, given: Tensors) -> None:
        B, T, H = given.u.shape
        self.bounds = bounds_of(given.cu_seqlens, B, T)
        self.groups = -(-given.sequences // GROUP)
        self.threads = threads.count(B * T * H * given.a.shape[1])
        self.block = LANES
        while self.block > _NARROWEST and self.groups * -(-H // self.block) < self.threads:
            self.block //= 2
        self.jobs = self.groups * -(-H // self.block)

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.block, first, last)

        threads.split(work, self.jobs, self.threads)


def _inputs(given: Tensors) -> tuple[np.ndarray, ...]:
    """u as rows of tokens, a, b, c, and zeros for a D that is not given."""
    dtype = state_dtype(given.u.dtype)
    D = given.u.new_zeros(given.u.shape[2], dtype=dtype) if given.D is None else given.D
    return rows(given.u), array(given.a), array(given.b), array(given.c), array(D)


def _as_kept(states: Tensor) -> Tensor:
    """The kept states as the loops write them: [slots, M, 2, H], channels side by side."""
    slots, H, M, _ = states.shape
    return states.view(slots, M, 2, H)
