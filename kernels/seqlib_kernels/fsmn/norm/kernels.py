# SPDX-License-Identifier: Apache-2.0
# Triton reads these functions differently from Python:
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false
"""Triton kernels of normalisation over sequences; the dense memory shares its sums over time.

Sums over time are made in two stages: a program for SPAN rows of one sequence, then one for every
sequence that merges these parts in order. No tile crosses a sequence, so that a packed call equals
separate ones bit for bit.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..._core import alloc
from ..._core.chunks import slots
from ..._core.kernels_chunks import bounds, first_slot, locate
from ..._core.launch import Launch
from . import statistics
from .launch import LAUNCH


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
    plan = Plan(x, mean, cu_seqlens, LAUNCH.pick(x, x.shape[2]))
    plan.by_tile(_normalise, x, weight, bias, mean, rstd, y)


def measure(
    x: Tensor,
    cu_seqlens: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    per_channel: bool,
    eps: float,
) -> None:
    """The mean and 1/sqrt(var + eps) of every sequence of x [B,T,C], into [N,C]."""
    plan = Plan(x, mean, cu_seqlens, LAUNCH.pick(x, x.shape[2]))
    m2 = alloc.empty(mean.shape, mean)
    means, squares = (alloc.empty((plan.parts, x.shape[2]), mean) for _ in range(2))
    plan.by_part(_moments, x, means, squares)
    plan.by_sequence(_merge, x, means, squares, mean, m2)
    statistics.finish(mean, rstd, m2, statistics.lengths_of(cu_seqlens, x, mean), per_channel, eps)


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
    plan = Plan(x, mean, cu_seqlens, LAUNCH.pick(x, x.shape[2]))
    parts = alloc.empty((plan.parts, 2, x.shape[2]), mean)
    plan.by_part(_gradient_sums, dy, x, mean, rstd, parts)
    sums = plan.add(parts)
    lengths = statistics.lengths_of(cu_seqlens, x, mean)
    outer, inner, *means = statistics.spread(sums, weight, lengths, per_channel)
    plan.by_tile(_gradients, dy, x, mean, rstd, outer * rstd, inner, *means, dx)
    return sums[1].sum(0), sums[0].sum(0)


class Plan:
    """The launches of one call: programs take tiles or parts of a sequence, or all of one."""

    def __init__(
        self, x: Tensor, statistics: Tensor, cu_seqlens: Tensor | None, row: Launch
    ) -> None:
        """`statistics` is [..., N, C]."""
        self.batch, self.T, self.C = x.shape
        self.like, self.cu_seqlens, self.row = statistics, cu_seqlens, row
        self.sequences = statistics.shape[-2]
        self.tiles = self._slots(row.tiles["BT"])
        self.parts = self._slots(row.tiles["SPAN"])

    def by_tile(self, kernel: Any, *arguments: Any, columns: int = 1) -> None:
        self._run(kernel, self.tiles, arguments, columns)

    def by_part(self, kernel: Any, *arguments: Any) -> None:
        self._run(kernel, self.parts, arguments)

    def by_sequence(self, kernel: Any, *arguments: Any, columns: int = 1) -> None:
        self._run(kernel, self.sequences, arguments, columns)

    def add(self, parts: Tensor) -> Tensor:
        """The sums [K,N,C] over time of what parts of sequences [parts,K,C] hold."""
        kinds = parts.shape[1]
        sums = alloc.empty((kinds, self.sequences, self.C), parts)
        self.by_sequence(_add, parts, sums, columns=kinds)
        return sums

    def _slots(self, span: int) -> int:
        return slots(self.batch, self.T, self.sequences, span)

    def _run(self, kernel: Any, programs: int, arguments: Any, columns: int = 1) -> None:
        grid = (programs, triton.cdiv(self.C, self.row.tiles["BC"]), columns)
        if programs and self.C:
            kernel[grid](
                *arguments, self.cu_seqlens, self.sequences, self.T, self.C,
                PACKED=self.cu_seqlens is not None, **self.row.options(kernel.fn.__name__[1:]),
            )  # fmt: skip


@triton.jit(do_not_specialize=["N", "T"])
def _moments(
    x, means, squares, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The mean and the sum of squared distances from it of SPAN rows.

    What is summed are distances from the first row: a large mean would be rounded in every tile.
    """
    ACC: tl.constexpr = means.dtype.element_ty
    i_p, _, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, SPAN, BC)
    mean, m2, seen = tl.zeros([1, BC], ACC), tl.zeros([1, BC], ACC), tl.zeros([1, 1], ACC)
    pivot = _first_row(x, start, length, o_c, C).to(ACC)
    for t in range(0, SPAN, BT):
        o_t = first + t + tl.arange(0, BT)[:, None]
        m = (o_t < length) & m_c
        b_x = tl.load(x + (start + o_t) * C + o_c, mask=m, other=0.0).to(ACC)
        rows = tl.maximum(tl.minimum(length - first - t, BT), 0).to(ACC)
        b_x = tl.where(m, b_x - pivot, 0.0)
        centre = tl.sum(b_x, 0, keep_dims=True) / tl.maximum(rows, 1)
        distance = tl.where(m, b_x - centre, 0.0)
        spread = tl.sum(distance * distance, 0, keep_dims=True)
        mean, m2 = merged(mean, m2, seen, centre, spread, rows)
        seen += rows
    tl.store(means + i_p * C + o_c, mean, mask=m_c)
    tl.store(squares + i_p * C + o_c, m2, mask=m_c)


@triton.jit(do_not_specialize=["N", "T"])
def _merge(
    x, means, squares, mean, m2, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The same of whole sequences."""
    ACC: tl.constexpr = mean.dtype.element_ty
    i_n = tl.program_id(0).to(tl.int64)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    m_c = o_c < C
    at = first_slot(cu_seqlens, i_n, T, SPAN, PACKED) * C + o_c
    b_mean, b_m2, seen = tl.zeros([1, BC], ACC), tl.zeros([1, BC], ACC), tl.zeros([1, 1], ACC)
    for t in range(0, length, SPAN):
        rows = tl.minimum(length - t, SPAN).to(ACC)
        centre = tl.load(means + at, mask=m_c, other=0.0)
        spread = tl.load(squares + at, mask=m_c, other=0.0)
        b_mean, b_m2 = merged(b_mean, b_m2, seen, centre, spread, rows)
        seen += rows
        at += C
    b_mean += _first_row(x, start, length, o_c, C).to(ACC)
    tl.store(mean + i_n * C + o_c, b_mean, mask=m_c)
    tl.store(m2 + i_n * C + o_c, b_m2, mask=m_c)


@triton.jit
def _first_row(x, start, length, o_c, C):
    # Not `length > 0`: the interpreter makes no mask of one number.
    return tl.load(x + start * C + o_c, mask=(o_c < C) & (o_c * 0 < length), other=0.0)


@triton.jit
def merged(mean, m2, seen, centre, squares, rows):
    """Mean and squared distances of `seen` rows and `rows` more: Chan et al., 1983."""
    apart = centre - mean
    share = rows / tl.maximum(seen + rows, 1)
    return mean + apart * share, m2 + squares + apart * apart * (seen * share)


@triton.jit(do_not_specialize=["N", "T"])
def _normalise(
    x, weight, bias, mean, rstd, y, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """y = weight (x - mean) rstd + bias"""
    _, i_n, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, BT, BC)
    o_t = first + tl.arange(0, BT)[:, None]
    m = (o_t < length) & m_c
    xh = _normalised(x, mean, rstd, (start + o_t) * C + o_c, i_n * C + o_c, m, m_c)
    w = tl.load(weight + o_c, mask=m_c, other=0.0)
    b = tl.load(bias + o_c, mask=m_c, other=0.0)
    tl.store(y + (start + o_t) * C + o_c, (w * xh + b).to(y.dtype.element_ty), mask=m)


@triton.jit(do_not_specialize=["N", "T"])
def _gradient_sums(
    dy, x, mean, rstd, parts, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The sums of dy and of dy xh over SPAN rows."""
    ACC: tl.constexpr = parts.dtype.element_ty
    i_p, i_n, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, SPAN, BC)
    plain, scaled = tl.zeros([1, BC], ACC), tl.zeros([1, BC], ACC)
    for t in range(0, SPAN, BT):
        o_t = first + t + tl.arange(0, BT)[:, None]
        m, o = (o_t < length) & m_c, (start + o_t) * C + o_c
        g = tl.load(dy + o, mask=m, other=0.0).to(ACC)
        xh = _normalised(x, mean, rstd, o, i_n * C + o_c, m, m_c)
        plain += tl.sum(g, 0, keep_dims=True)
        scaled += tl.sum(tl.where(m, g * xh, 0.0), 0, keep_dims=True)
    tl.store(parts + 2 * i_p * C + o_c, plain, mask=m_c)
    tl.store(parts + (2 * i_p + 1) * C + o_c, scaled, mask=m_c)


@triton.jit(do_not_specialize=["N", "T"])
def _add(
    parts, sums, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Sums of whole sequences; the third axis of the grid counts the kinds of sums."""
    i_n, kind = tl.program_id(0).to(tl.int64), tl.program_id(2)
    _, length = bounds(cu_seqlens, i_n, T, PACKED)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    m_c = o_c < C
    kinds = tl.num_programs(2)
    at = (first_slot(cu_seqlens, i_n, T, SPAN, PACKED) * kinds + kind) * C + o_c
    total = tl.zeros([1, BC], sums.dtype.element_ty)
    for _ in range(0, length, SPAN):
        total += tl.load(parts + at, mask=m_c, other=0.0)
        at += kinds * C
    tl.store(sums + (kind * N + i_n) * C + o_c, total, mask=m_c)


@triton.jit(do_not_specialize=["N", "T"])
def _gradients(
    dy, x, mean, rstd, scale, inner, first_mean, second_mean, dx, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """dx = scale (inner dy - first_mean - xh second_mean)"""
    ACC: tl.constexpr = mean.dtype.element_ty
    _, i_n, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, BT, BC)
    o_t = first + tl.arange(0, BT)[:, None]
    m, o, at = (o_t < length) & m_c, (start + o_t) * C + o_c, i_n * C + o_c
    xh = _normalised(x, mean, rstd, o, at, m, m_c)
    w = tl.load(inner + o_c, mask=m_c, other=0.0)
    rest = w * tl.load(dy + o, mask=m, other=0.0).to(ACC)
    rest -= tl.load(first_mean + at, mask=m_c, other=0.0)
    rest -= xh * tl.load(second_mean + at, mask=m_c, other=0.0)
    rest *= tl.load(scale + at, mask=m_c, other=0.0)
    tl.store(dx + o, rest.to(dx.dtype.element_ty), mask=m)


@triton.jit
def _normalised(x, mean, rstd, o, at, m, m_c):
    centre = tl.load(mean + at, mask=m_c, other=0.0)
    b_x = tl.load(x + o, mask=m, other=0.0).to(centre.dtype)
    return (b_x - centre) * tl.load(rstd + at, mask=m_c, other=0.0)


@triton.jit
def piece(cu_seqlens, N, T, C, PACKED: tl.constexpr, SPAN: tl.constexpr, BC: tl.constexpr):
    """The SPAN rows and BC channels of a program.

    Returns slot, sequence, the sequence's first row and length, the first of its steps, channels.
    """
    i_p = tl.program_id(0).to(tl.int64)
    i_n, i_c = locate(cu_seqlens, i_p, N, T, SPAN, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    return i_p, i_n, start, length, i_c * SPAN, o_c, o_c < C
