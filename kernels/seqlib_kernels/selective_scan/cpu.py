# SPDX-License-Identifier: Apache-2.0
"""The selective scan on CPUs: outputs, and jobs for threads. The loops are in cpu_scan.py."""

import numpy as np
from torch import Tensor

from .._core import alloc, threads
from .._core.lowp import array, rows
from .._core.varlen import bounds_of
from . import cpu_scan
from .arguments import Tensors
from .cpu_scan import LANES, PIECE


def piece_length(u: Tensor) -> int:
    """How many steps lie between two states that are kept for the backward pass."""
    return PIECE


def forward(
    given: Tensors, dt_softplus: bool, negative_eigenvalues: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,D], hT [Nseq,D,N] and the states kept for `backward`; see `op.py`."""
    plan, A = _Plan(given), given.A
    y, hT = alloc.empty(given.u.shape, given.u), alloc.empty((plan.sequences, *A.shape), A)
    slots, *sizes = given.states_shape(PIECE)
    states = alloc.empty((slots if save else 0, *sizes), A)
    hT.copy_(given.h0) if given.h0 is not None else hT.zero_()
    flags = (dt_softplus, negative_eigenvalues, given.z is not None, save)
    plan.run(cpu_scan.forward, _inputs(given), array(hT), rows(y), array(hT), array(states), flags)
    return y, hT, states


def backward(
    dy: Tensor,
    dhT: Tensor,
    given: Tensors,
    states: Tensor,
    dt_softplus: bool,
    negative_eigenvalues: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of u, dt, A, B, C, D, z, dt_bias and h0; see `op.py`."""
    plan, A, B = _Plan(given), given.A, given.B
    D, N = A.shape
    du, ddt = (alloc.empty(x.shape, x) for x in (given.u, given.dt))
    dz = None if given.z is None else alloc.empty(given.z.shape, given.z)
    # Blocks of channels share in dB and dC, sequences in dA, dD and ddt_bias: parts in a fixed
    # order, so that sums don't depend on threads.
    parts = alloc.empty((2, plan.blocks, *B.shape), A)
    sums = alloc.empty((plan.sequences, N + 2, D), A)
    dh0 = alloc.empty(dhT.shape, dhT)
    grads = (
        *(rows(x) for x in (du, ddt, du if dz is None else dz)),
        *(array(x.flatten(1, 2)) for x in parts),
        array(sums),
        array(dh0),
    )
    flags = (dt_softplus, negative_eigenvalues, given.z is not None, True)
    plan.run(cpu_scan.backward, _inputs(given), array(states), rows(dy), array(dhT), grads, flags)
    dB, dC = parts.sum(1).to(B.dtype)
    total = sums.sum(0)
    dD = None if given.D is None else total[N].clone()
    ddt_bias = None if given.dt_bias is None else total[N + 1].clone()
    return du, ddt, total[:N].T.contiguous(), dB.clone(), dC.clone(), dD, dz, ddt_bias, dh0


class _Plan:
    """How one call is cut into jobs, numbered [sequence, group, block of channels]."""

    def __init__(self, given: Tensors) -> None:
        batch, T, D = given.u.shape
        self.groups, N = given.B.shape[2:]
        self.bounds = bounds_of(given.cu_seqlens, batch, T)
        self.sequences = given.sequences
        self.blocks = -(-(D // self.groups) // LANES)
        self.threads = threads.count(batch * T * D * N)

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.groups, first, last)

        threads.split(work, self.sequences * self.groups * self.blocks, self.threads)


def _inputs(given: Tensors) -> tuple[np.ndarray, ...]:
    """The inputs as the loops read them: rows of tokens, and zeros for what is not given."""
    u, dt, A, B, C, D, z, dt_bias, *_ = given
    zeros = A.new_zeros(A.shape[0])
    D, dt_bias = (zeros if x is None else x for x in (D, dt_bias))
    z = u if z is None else z
    return (rows(u), rows(dt), array(A), rows(B), rows(C), array(D), rows(z), array(dt_bias))
