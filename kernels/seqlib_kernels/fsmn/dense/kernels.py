# SPDX-License-Identifier: Apache-2.0
# Triton reads these functions differently from Python:
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false
"""Triton kernels of the dense memory: convolutions, PReLUs behind norms, their gradients.

A program takes a tile of one sequence. What a layer reads, x and the o_i before it, is made from
the a_i wherever it is loaded, so that no o_i is stored; da is, because every tap of two sums reads
it. Layers are counted from 0, as in cpu_rows.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._core import alloc
from ..._core.kernels_chunks import bounds, locate
from ..norm import kernels as norm
from ..norm import statistics
from ..norm.kernels import Plan, piece
from .launch import LAUNCH
from .reference import first_input

SPLITS = 64  # programs that share in the gradient of a tap, at most


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
    plan = Plan(x, mean, cu_seqlens, LAUNCH.pick(x, x.shape[2]))
    given, place = (x, gain, shift, slope, convs, mean, rstd), _place(x)
    for i in range(gain.shape[0]):
        plan.by_tile(_outputs, *given, weight, *_layer(weight, i), *place)
        norm.measure(convs[i], cu_seqlens, mean[i], rstd[i], True, eps)
    last = (convs[-1], gain[-1], shift[-1], slope[-1], mean[-1], rstd[-1])
    plan.by_tile(_activate, *last, y)


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
    plan = Plan(x, mean, cu_seqlens, LAUNCH.pick(x, x.shape[2]))
    lengths = statistics.lengths_of(cu_seqlens, x, mean)
    given, place, (depth, C) = (x, gain, shift, slope, convs, mean, rstd), _place(x), gain.shape
    # Gradients of x and of o_1 to o_depth. The last layer reads all before it and so writes
    # them first; the others add.
    grads = alloc.empty(convs.shape, gain)
    da = alloc.empty(x.shape, gain)
    parts = alloc.empty((plan.parts, 3, C), gain)
    splits = min(SPLITS, plan.tiles)
    dweight = torch.zeros_like(weight)
    sums = []
    for i in reversed(range(depth)):
        do = dy if i + 1 == depth else grads[i + 1]
        own = (convs[i], gain[i], shift[i], slope[i], mean[i], rstd[i])
        plan.by_part(_gradient_sums, do, *own, parts)
        sums.append(plan.add(parts))
        first, second = sums[-1][:2] / lengths
        plan.by_tile(_differentiate, do, *own, first, second, da)
        layer = _layer(weight, i)
        plan.by_tile(_give, da, weight, grads, *layer, *place, depth, columns=i + 1)
        taps = alloc.empty((splits, C, i + 1, weight.shape[2]), gain)
        if splits:
            _taps[(splits, triton.cdiv(C, plan.row.tiles["BC"]), (i + 1) * weight.shape[2])](
                da, *given, taps, *layer, *place, plan.tiles,
                cu_seqlens, plan.sequences, plan.T, C,
                PACKED=cu_seqlens is not None, **plan.row.options("taps"),
            )  # fmt: skip
        dweight[:, first_input(i) : first_input(i + 1)] = taps.sum(0)
    dx.copy_(grads[0])
    total = torch.stack(sums[::-1])
    dshift, dgain, dslope = (total[:, k].sum(1) for k in range(3))
    return dweight, dgain, dshift, dslope


def _layer(weight: Tensor, i: int) -> tuple[int, int, int, int]:
    """The number of a layer, where its taps begin and how many there are of one channel."""
    _, inputs, W = weight.shape
    return i, first_input(i) * W, W, inputs * W


def _place(x: Tensor) -> tuple[int]:
    """The number of rows of all sequences."""
    return (x.shape[0] * x.shape[1],)


@triton.jit(do_not_specialize=["layer", "R", "N", "T"])
def _outputs(
    x, gain, shift, slope, convs, mean, rstd, weight, layer, own, W, per_channel, R,
    cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """a[t,c] = sum over j, n of w[c,j,n] cat[t + d (n - h), c J + j] of one layer"""
    ACC: tl.constexpr = convs.dtype.element_ty
    _, i_n, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, BT, BC)
    o_t = first + tl.arange(0, BT)[:, None]
    a = tl.zeros([BT, BC], ACC)
    for j in range(layer + 1):
        o_i, before, m_x, m_a = _owner(o_c * (layer + 1) + j, m_c, layer, C)
        centre, scale, factor, offset, tilt = _affine(
            gain, shift, slope, mean, rstd, i_n, o_i, before, m_a, N, C
        )
        for n in range(W):
            w = tl.load(weight + o_c * per_channel + own + j * W + n, mask=m_c, other=0.0)
            t = o_t + (n - W // 2) * (1 << layer)
            a += w * _read(
                x, convs, start + t, (t >= 0) & (t < length), o_i, before, m_x, m_a,
                centre, scale, factor, offset, tilt, R, C,
            )  # fmt: skip
    target = convs + layer.to(tl.int64) * R * C
    tl.store(target + (start + o_t) * C + o_c, a, mask=(o_t < length) & m_c)


@triton.jit(do_not_specialize=["N", "T"])
def _activate(
    a, gain, shift, slope, mean, rstd, y, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """o of the last layer"""
    _, i_n, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, BT, BC)
    o_t = first + tl.arange(0, BT)[:, None]
    m, o = (o_t < length) & m_c, (start + o_t) * C + o_c
    z, _ = _behind_norm(a, gain, shift, mean, rstd, o, i_n * C + o_c, o_c, m, m_c)
    z = tl.where(z > 0, z, z * tl.load(slope + o_c, mask=m_c, other=0.0))
    tl.store(y + o, z.to(y.dtype.element_ty), mask=m)


@triton.jit(do_not_specialize=["N", "T"])
def _gradient_sums(
    do, a, gain, shift, slope, mean, rstd, parts, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The sums over SPAN rows of dz, of dz xh and of what the slopes get."""
    ACC: tl.constexpr = parts.dtype.element_ty
    i_p, i_n, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, SPAN, BC)
    plain, scaled = tl.zeros([1, BC], ACC), tl.zeros([1, BC], ACC)
    below = tl.zeros([1, BC], ACC)
    tilt = tl.load(slope + o_c, mask=m_c, other=0.0)
    for t in range(0, SPAN, BT):
        o_t = first + t + tl.arange(0, BT)[:, None]
        m, o = (o_t < length) & m_c, (start + o_t) * C + o_c
        g = tl.load(do + o, mask=m, other=0.0).to(ACC)
        z, xh = _behind_norm(a, gain, shift, mean, rstd, o, i_n * C + o_c, o_c, m, m_c)
        dz = tl.where(z > 0, g, g * tilt)
        plain += tl.sum(dz, 0, keep_dims=True)
        scaled += tl.sum(tl.where(m, dz * xh, 0.0), 0, keep_dims=True)
        below += tl.sum(tl.where(m & ~(z > 0), g * z, 0.0), 0, keep_dims=True)
    at = parts + 3 * i_p * C + o_c
    tl.store(at, plain, mask=m_c)
    tl.store(at + C, scaled, mask=m_c)
    tl.store(at + 2 * C, below, mask=m_c)


@triton.jit(do_not_specialize=["N", "T"])
def _differentiate(
    do, a, gain, shift, slope, mean, rstd, first_mean, second_mean, da, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """da = rstd gain (dz - mean of dz - xh mean of dz xh)"""
    ACC: tl.constexpr = da.dtype.element_ty
    _, i_n, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, BT, BC)
    o_t = first + tl.arange(0, BT)[:, None]
    m, o, at = (o_t < length) & m_c, (start + o_t) * C + o_c, i_n * C + o_c
    g = tl.load(do + o, mask=m, other=0.0).to(ACC)
    z, xh = _behind_norm(a, gain, shift, mean, rstd, o, at, o_c, m, m_c)
    rest = tl.where(z > 0, g, g * tl.load(slope + o_c, mask=m_c, other=0.0))
    rest -= tl.load(first_mean + at, mask=m_c, other=0.0)
    rest -= xh * tl.load(second_mean + at, mask=m_c, other=0.0)
    rest *= tl.load(rstd + at, mask=m_c, other=0.0) * tl.load(gain + o_c, mask=m_c, other=0.0)
    tl.store(da + o, rest, mask=m)


@triton.jit(do_not_specialize=["layer", "layers", "R", "N", "T"])
def _give(
    da, weight, grads, layer, own, W, per_channel, R, layers, cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """What neighbour j of every output channel gets from da, for whom it belongs to."""
    ACC: tl.constexpr = da.dtype.element_ty
    _, _, start, length, first, o_c, m_c = piece(cu_seqlens, N, T, C, PACKED, BT, BC)
    j = tl.program_id(2)
    o_t = first + tl.arange(0, BT)[:, None]
    total = tl.zeros([BT, BC], ACC)
    for n in range(W):
        row = o_t - (n - W // 2) * (1 << layer)
        w = tl.load(weight + o_c * per_channel + own + j * W + n, mask=m_c, other=0.0)
        m = (row >= 0) & (row < length) & m_c
        total += w * tl.load(da + (start + row) * C + o_c, mask=m, other=0.0)
    o_q = o_c * (layer + 1) + j
    m = (o_t < length) & m_c
    owner = (layer - o_q // C).to(tl.int64)  # 0 is x, i the layer i-1
    at = grads + (owner * R + start + o_t) * C + o_q % C
    if layer + 1 < layers:
        total += tl.load(at, mask=m, other=0.0)
    tl.store(at, total, mask=m)


@triton.jit(do_not_specialize=["layer", "R", "N", "T", "tiles"])
def _taps(
    da, x, gain, shift, slope, convs, mean, rstd, parts, layer, own, W, per_channel, R, tiles,
    cu_seqlens, N, T, C,
    PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """dw[c,j,n] = sum over t of da[t,c] cat[t + d (n - h), c J + j], over every 64th tile"""
    ACC: tl.constexpr = da.dtype.element_ty
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    m_c = o_c < C
    j, n = tl.program_id(2) // W, tl.program_id(2) % W
    o_i, before, m_x, m_a = _owner(o_c * (layer + 1) + j, m_c, layer, C)
    total = tl.zeros([BT, BC], ACC)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i_n, i_c = locate(cu_seqlens, (tl.program_id(0) * 0 + tile).to(tl.int64), N, T, BT, PACKED)
        start, length = bounds(cu_seqlens, i_n, T, PACKED)
        o_t = i_c * BT + tl.arange(0, BT)[:, None]
        m = (o_t < length) & m_c
        g = tl.load(da + (start + o_t) * C + o_c, mask=m, other=0.0)
        centre, scale, factor, offset, tilt = _affine(
            gain, shift, slope, mean, rstd, i_n, o_i, before, m_a, N, C
        )
        t = o_t + (n - W // 2) * (1 << layer)
        total += g * _read(
            x, convs, start + t, (t >= 0) & (t < length), o_i, before, m_x, m_a,
            centre, scale, factor, offset, tilt, R, C,
        )  # fmt: skip
    at = (tl.program_id(0).to(tl.int64) * C + o_c) * tl.num_programs(2) + tl.program_id(2)
    tl.store(parts + at, tl.sum(total, 0, keep_dims=True), mask=m_c)


@triton.jit
def _owner(o_q, m_c, layer, C):
    """Whose channels o_q of what a layer reads are: blocks of C, the layers before it and then x.

    Returns the channel among those of its owner, the owner if it is a layer, and who is x or one.
    """
    block = o_q // C
    return o_q % C, (layer - 1 - block).to(tl.int64), m_c & (block == layer), m_c & (block < layer)


@triton.jit
def _affine(gain, shift, slope, mean, rstd, i_n, o_i, before, m_a, N, C):
    """Statistics of a sequence, gain, shift and slope of channels o_i of the layers `before`."""
    at, o = (before * N + i_n) * C + o_i, before * C + o_i
    return (
        tl.load(mean + at, mask=m_a, other=0.0),
        tl.load(rstd + at, mask=m_a, other=0.0),
        tl.load(gain + o, mask=m_a, other=0.0),
        tl.load(shift + o, mask=m_a, other=0.0),
        tl.load(slope + o, mask=m_a, other=0.0),
    )


@triton.jit
def _read(
    x, convs, rows, m_t, o_i, before, m_x, m_a, centre, scale, factor, offset, tilt, R, C
):  # fmt: skip
    """o of layers or x, zero outside of the sequence."""
    b_x = tl.load(x + rows * C + o_i, mask=m_t & m_x, other=0.0).to(centre.dtype)
    b_a = tl.load(convs + (before * R + rows) * C + o_i, mask=m_t & m_a, other=0.0)
    z = factor * ((b_a - centre) * scale) + offset
    return tl.where(m_t & m_a, tl.where(z > 0, z, tilt * z), b_x)


@triton.jit
def _behind_norm(a, gain, shift, mean, rstd, o, at, o_c, m, m_c):
    """z = gain xh + shift, and xh"""
    xh = tl.load(a + o, mask=m, other=0.0) - tl.load(mean + at, mask=m_c, other=0.0)
    xh *= tl.load(rstd + at, mask=m_c, other=0.0)
    z = tl.load(gain + o_c, mask=m_c, other=0.0) * xh
    return z + tl.load(shift + o_c, mask=m_c, other=0.0), xh
