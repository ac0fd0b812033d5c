# SPDX-License-Identifier: Apache-2.0
"""Normalisation over sequences on CPUs: jobs for threads. The loops are in cpu_rows.py."""

from torch import Tensor

from ..._core import alloc, threads
from ..._core.lowp import array, rows
from ..._core.varlen import bounds_of
from . import cpu_rows, statistics


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cu_seqlens: Tensor | None,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    per_channel: bool,
    eps: float,
) -> None:
    """y [B,T,C], mean and rstd [N,C]; see `op.py`."""
    measure(x, cu_seqlens, mean, rstd, per_channel, eps)
    bounds = bounds_of(cu_seqlens, *x.shape[:2])
    given = (rows(x), array(weight), array(bias), array(mean), array(rstd), rows(y), bounds)

    def work(first: int, last: int) -> None:
        cpu_rows.normalise(*given, first, last)

    threads.split(work, x.shape[0] * x.shape[1], threads.count(x.numel(), 1 << 18))


def measure(
    x: Tensor,
    cu_seqlens: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    per_channel: bool,
    eps: float,
) -> None:
    """The mean and 1/sqrt(var + eps) of every sequence of x [B,T,C], into [N,C]."""
    m2 = alloc.empty(mean.shape, mean)
    bounds = bounds_of(cu_seqlens, *x.shape[:2])
    given = (rows(x), bounds, array(mean), array(m2))

    def work(first: int, last: int) -> None:
        cpu_rows.moments(*given, first, last)

    jobs = cpu_rows.jobs(*mean.shape)
    threads.split(work, jobs, threads.count(x.numel(), 1 << 18))
    lengths = statistics.lengths_of(cu_seqlens, x, mean)
    statistics.finish(mean, rstd, m2, lengths, per_channel, eps)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    cu_seqlens: Tensor | None,
    dx: Tensor,
    per_channel: bool,
) -> tuple[Tensor, Tensor]:
    """dx into [B,T,C]; returns dweight and dbias; see `op.py`."""
    bounds = bounds_of(cu_seqlens, *x.shape[:2])
    sums = alloc.empty((2, *mean.shape), mean)
    numbers = threads.count(x.numel(), 1 << 18)
    given = (rows(dy), rows(x), array(mean), array(rstd))

    def add(first: int, last: int) -> None:
        cpu_rows.gradient_sums(*given, bounds, array(sums), first, last)

    threads.split(add, cpu_rows.jobs(*mean.shape), numbers)
    lengths = statistics.lengths_of(cu_seqlens, x, mean)
    outer, inner, *means = statistics.spread(sums, weight, lengths, per_channel)
    scale, factor, level, slope = (array(m) for m in (outer * rstd, inner, *means))

    def work(first: int, last: int) -> None:
        cpu_rows.gradients(*given, scale, factor, level, slope, rows(dx), bounds, first, last)

    threads.split(work, x.shape[0] * x.shape[1], numbers)
    return sums[1].sum(0), sums[0].sum(0)
