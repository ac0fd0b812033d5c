# SPDX-License-Identifier: Apache-2.0
"""The selective scan on CPUs: outputs, and jobs for threads. The loops are in cpu_scan.py."""

import numpy as np
from torch import Tensor

from .._core import alloc, threads
from .._core.lowp import array
from . import cpu_scan
from .cpu_scan import LANES, PIECE


def piece_length(u: Tensor) -> int:
    """How many steps lie between two states that are kept for the backward pass."""
    return PIECE


def forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    dt_softplus: bool,
    negative_eigenvalues: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,D], hT [Nseq,D,N] and the states kept for `backward`; see `op.py`."""
    plan = _Plan(u, A, B, cu_seqlens)
    y, hT = alloc.empty(u.shape, u), alloc.empty((plan.sequences, *A.shape), A)
    states = alloc.empty((plan.slots if save else 0, A.shape[1], A.shape[0]), A)
    hT.copy_(h0) if h0 is not None else hT.zero_()
    inputs = _inputs(u, dt, A, B, C, D, z, dt_bias)
    flags = (dt_softplus, negative_eigenvalues, z is not None, save)
    plan.run(cpu_scan.forward, inputs, array(hT), _rows(y), array(hT), array(states), flags)
    return y, hT, states


def backward(
    dy: Tensor,
    dhT: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    states: Tensor,
    dt_softplus: bool,
    negative_eigenvalues: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of u, dt, A, B, C, D, z, dt_bias and h0; see `op.py`."""
    plan = _Plan(u, A, B, cu_seqlens)
    N = A.shape[1]
    du, ddt = alloc.empty(u.shape, u), alloc.empty(dt.shape, dt)
    dz = None if z is None else alloc.empty(z.shape, z)
    # Blocks of channels share in dB and dC, sequences in dA, dD and ddt_bias: parts in a fixed
    # order, so that sums don't depend on threads.
    parts = alloc.empty((2, plan.blocks, *B.shape), A)
    sums = alloc.empty((plan.sequences, N + 2, A.shape[0]), A)
    dh0 = alloc.empty(dhT.shape, dhT)
    inputs = _inputs(u, dt, A, B, C, D, z, dt_bias)
    grads = (
        *(_rows(x) for x in (du, ddt, du if dz is None else dz)),
        *(array(x.flatten(1, 2)) for x in parts),
        array(sums),
        array(dh0),
    )
    flags = (dt_softplus, negative_eigenvalues, z is not None, True)
    plan.run(cpu_scan.backward, inputs, array(states), _rows(dy), array(dhT), grads, flags)
    dB, dC = parts.sum(1).to(B.dtype)
    total = sums.sum(0)
    dD = None if D is None else total[N].clone()
    ddt_bias = None if dt_bias is None else total[N + 1].clone()
    return du, ddt, total[:N].T.contiguous(), dB.clone(), dC.clone(), dD, dz, ddt_bias, dh0


class _Plan:
    """How one call is cut into jobs, numbered [sequence, group, block of channels]."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor | None) -> None:
        if cu_seqlens is None:
            self.bounds = np.arange(u.shape[0] + 1, dtype=np.int64) * u.shape[1]
        else:
            self.bounds = cu_seqlens.numpy().astype(np.int64)
        self.sequences = len(self.bounds) - 1
        self.groups = B.shape[2]
        self.blocks = -(-(A.shape[0] // self.groups) // LANES)
        self.slots = u.shape[0] * u.shape[1] // PIECE + self.sequences
        self.threads = threads.count(u.numel() * A.shape[1])

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.groups, first, last)

        threads.split(work, self.sequences * self.groups * self.blocks, self.threads)


def _inputs(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
) -> tuple[np.ndarray, ...]:
    """The inputs as the loops read them: rows of tokens, and zeros for what is not given."""
    zeros = A.new_zeros(A.shape[0])
    D, dt_bias = (zeros if x is None else x for x in (D, dt_bias))
    z = u if z is None else z
    return (_rows(u), _rows(dt), array(A), _rows(B), _rows(C), array(D), _rows(z), array(dt_bias))


def _rows(x: Tensor) -> np.ndarray:
    """[B, T, ...] as rows [B*T, ...]"""
    return array(x.flatten(0, 1))
