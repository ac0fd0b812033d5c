# SPDX-License-Identifier: Apache-2.0
"""The dense memory on CPUs: layers, and jobs for threads. The loops are in cpu_rows.py."""

import numpy as np
import torch
from torch import Tensor

from ..._core import alloc, threads
from ..._core.lowp import array, rows
from ..._core.varlen import bounds_of
from ..memory.cpu_rows import lanes_of
from ..norm import cpu as norm
from ..norm import cpu_rows as norm_rows
from ..norm import statistics
from . import cpu_rows
from .reference import first_input


def forward(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    slope: Tensor,
    cu_seqlens: Tensor | None,
    y: Tensor,
    convs: Tensor,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
) -> None:
    """y [B,T,C], the a_i [depth,B,T,C], mean and rstd [depth,N,C]; see `op.py`."""
    plan = _Plan(x, weight, gain, cu_seqlens)
    given = _inputs(x, gain, shift, slope, convs, mean, rstd)
    for i in range(plan.depth):
        taps = _taps(weight, i)
        plan.run(plan.jobs(i), cpu_rows.forward, *given, taps, plan.bounds, i)
        norm.measure(convs[i], cu_seqlens, mean[i], rstd[i], True, eps)
    plan.run(plan.rows, cpu_rows.activate, *given, rows(y), plan.bounds)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    slope: Tensor,
    cu_seqlens: Tensor | None,
    convs: Tensor,
    mean: Tensor,
    rstd: Tensor,
    dx: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx into [B,T,C]; returns the gradients of the parameters; see `op.py`."""
    plan = _Plan(x, weight, gain, cu_seqlens)
    given = _inputs(x, gain, shift, slope, convs, mean, rstd)
    lengths = statistics.lengths_of(cu_seqlens, x, mean)
    # Gradients of x and of o_1 to o_depth. The last layer reads all before it and so writes
    # them first; the others add.
    grads = alloc.empty((plan.depth, *x.shape), gain)
    dweight = alloc.empty(weight.shape, weight)
    sums = alloc.empty((plan.depth, 3, *mean.shape[1:]), gain)
    for i in reversed(range(plan.depth)):
        do = rows(dy if i + 1 == plan.depth else grads[i + 1])
        plan.run(plan.sums, cpu_rows.gradient_sums, *given, do, plan.bounds, i, array(sums[i]))
        means = array(sums[i, :2] / lengths)
        parts = alloc.empty((plan.sequences << i, i + 1, weight.shape[2], plan.C), gain)
        plan.run(
            plan.jobs(i), cpu_rows.backward, *given, do, means, _taps(weight, i), plan.bounds, i,
            array(grads.flatten(1, 2)), array(parts),
        )  # fmt: skip
        own = slice(first_input(i), first_input(i + 1))
        dweight[:, own] = parts.sum(0).permute(2, 0, 1)
    dx.copy_(grads[0])
    dshift, dgain, dslope = (sums[:, k].sum(1) for k in range(3))
    return dweight, dgain, dshift, dslope


class _Plan:
    """How one call is cut into jobs."""

    def __init__(self, x: Tensor, weight: Tensor, gain: Tensor, cu_seqlens: Tensor | None) -> None:
        batch, T, self.C = x.shape
        self.depth = gain.shape[0]
        self.bounds = bounds_of(cu_seqlens, batch, T)
        self.sequences = len(self.bounds) - 1
        self.rows = batch * T
        self.sums = norm_rows.jobs(self.sequences, self.C)
        self.threads = threads.count(x.numel() * weight.shape[2], 1 << 18)

    def jobs(self, i: int) -> int:
        """The jobs of the convolution of layer i: sequences, blocks of channels, phases."""
        return self.sequences * -(-self.C // lanes_of(self.C)) << i

    def run(self, jobs: int, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, first, last)

        threads.split(work, jobs, self.threads)


def _inputs(x: Tensor, *kept: Tensor) -> tuple[np.ndarray, ...]:
    """What every loop reads: rows of steps, parameters, [depth,rows,C] of convolutions."""
    gain, shift, slope, convs, mean, rstd = kept
    parameters = array(torch.stack((gain, shift, slope), 1))
    return rows(x), parameters, array(convs.flatten(1, 2)), array(mean), array(rstd)


def _taps(weight: Tensor, i: int) -> np.ndarray:
    """The taps of layer i, [i+1,W,C]."""
    return array(weight[:, first_input(i) : first_input(i + 1)].permute(1, 2, 0).contiguous())
