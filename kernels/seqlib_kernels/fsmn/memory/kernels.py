# SPDX-License-Identifier: Apache-2.0
# Triton reads these functions differently from Python:
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
"""Triton kernels of the FSMN memory: outputs, gradients of inputs, gradients of taps, states.

A program takes BT rows of BC channels. Rows of all sequences are one list, and every row knows
where its own sequence starts and ends, so that tiles may cross sequences. The activation is
computed again at every tap, from rows that the caches hold, and nothing but the inputs is stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._core import alloc
from ..._core.kernels_math import sigmoid
from .arguments import Options, Tensors
from .launch import LAUNCH

SPLITS = 64  # programs that share in the gradient of a tap, at most


def forward(given: Tensors, options: Options) -> tuple[Tensor, Tensor]:
    """y [B,T,C] and hT [N,S,J C]; see `op.py`."""
    plan = _Plan(given, options)
    y = alloc.empty((*given.x.shape[:2], plan.C), given.x)
    hT = alloc.empty(given.state_shape(options), given.weight)
    flags = plan.flags()
    if y.numel():
        grid = (triton.cdiv(plan.rows, plan.BT), plan.blocks)
        _outputs[grid](
            *given[:-1], plan.owners, given.cu_seqlens, y, *plan.sizes,
            RESIDUAL=options.residual, **flags, **plan.row.options("outputs"),
        )  # fmt: skip
    if hT.numel():
        grid = (triton.cdiv(hT.shape[0] * hT.shape[1], plan.BT), plan.blocks, plan.J)
        _last_rows[grid](
            *given[:-1], given.cu_seqlens, hT, *plan.sizes, hT.shape[0],
            **flags, **plan.row.options("last_rows"),
        )  # fmt: skip
    return y, hT


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, options: Options
) -> tuple[Tensor | None, ...]:
    """The gradients of x, weight, bias, scale and h0; see `op.py`."""
    plan, x, weight = _Plan(given, options), given.x, given.weight
    _, J, W = weight.shape
    tiles = triton.cdiv(plan.rows, plan.BT)
    splits = min(SPLITS, tiles)
    dx, dh0 = alloc.empty(x.shape, x), alloc.empty(dhT.shape, dhT)
    # Parts that are summed in a fixed order, without atomics.
    dbias = None if given.bias is None else alloc.empty((tiles, x.shape[2]), weight)
    dscale = None
    if given.scale is not None:
        dscale = alloc.empty((plan.blocks * J, *x.shape[:2]), weight)
    dweight = alloc.empty((splits, *weight.shape), weight)
    flags, place = plan.flags(), (plan.owners, given.cu_seqlens)
    if x.numel():
        _inputs[(tiles, plan.blocks, J)](
            dy, dhT, *given[:-2], *place, dx, dbias, dscale, *plan.sizes,
            RESIDUAL=options.residual, CAUSAL=options.causal, **flags,
            **plan.row.options("inputs"),
        )  # fmt: skip
        _taps[(splits, plan.blocks, J * W)](
            dy, *given[:1], *given[2:-1], *place, dweight, *plan.sizes, splits,
            **flags, **plan.row.options("taps"),
        )  # fmt: skip
    if dh0.numel():
        grid = (triton.cdiv(dh0.shape[0] * dh0.shape[1], plan.BT), plan.blocks, J)
        _first_rows[grid](
            dy, dhT, weight, given.cu_seqlens, dh0, *plan.sizes, dh0.shape[0],
            **plan.row.options("first_rows"),
        )  # fmt: skip
    totals = (None if part is None else part.sum(0) for part in (dweight, dbias, dscale))
    return dx, *totals, dh0


class _Plan:
    """The launches of one call."""

    def __init__(self, given: Tensors, options: Options) -> None:
        batch, T, _ = given.x.shape
        self.C, self.J, W = given.weight.shape
        self.row = LAUNCH.pick(given.x, self.C)
        self.BT = self.row.tiles["BT"]
        self.blocks = triton.cdiv(self.C, self.row.tiles["BC"])
        self.rows = batch * T
        self.silu = options.silu
        span = options.dilation * (W - 1)
        before = span if options.causal else span // 2
        self.sizes = (self.rows, T, self.C, self.J, W, options.dilation, span, before)
        self.owners = None
        if given.cu_seqlens is not None:
            rows = torch.arange(T, dtype=given.cu_seqlens.dtype, device=given.x.device)
            self.owners = torch.searchsorted(given.cu_seqlens, rows, right=True) - 1

    def flags(self) -> dict[str, bool]:
        return {"SILU": self.silu}


@triton.jit(do_not_specialize=["R", "T"])
def _outputs(
    x, weight, bias, scale, h0, owners, cu_seqlens, y,
    R, T, C, J, W, dilation, S, before,
    RESIDUAL: tl.constexpr, SILU: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """y[t,c] = (a[t,c]) + sum over j, n of w[c,j,n] a[t + d n - before, c J + j]"""
    ACC: tl.constexpr = weight.dtype.element_ty
    o_r, m_r, o_c, m_c = _tile(R, C, BT, BC)
    seq, start, stop = _sequence(o_r, m_r, owners, cu_seqlens, T)
    o = tl.zeros([BT, BC], ACC)
    for j in range(J):
        for n in range(W):
            w = tl.load(weight + (o_c * J + j) * W + n, mask=m_c, other=0.0)
            o += w * _read(
                x, bias, scale, h0, o_r + (dilation * n - before), seq, start, stop,
                o_c * J + j, m_r, m_c, C * J, S, SILU, ACC,
            )  # fmt: skip
    if RESIDUAL:
        o += _read(
            x, bias, scale, h0, o_r, seq, start, stop, o_c, m_r, m_c, C, S, SILU, ACC
        )  # fmt: skip
    tl.store(y + o_r * C + o_c, o.to(y.dtype.element_ty), mask=m_r & m_c)


@triton.jit(do_not_specialize=["R", "T"])
def _inputs(
    dy, dhT, x, weight, bias, scale, owners, cu_seqlens, dx, dbias, dscale,
    R, T, C, J, W, dilation, S, before,
    RESIDUAL: tl.constexpr, CAUSAL: tl.constexpr, SILU: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """da[t] = (dy[t]) + sum over n of w[n] dy[t + before - d n]; dx = scale act'(z) da"""
    ACC: tl.constexpr = weight.dtype.element_ty
    o_r, m_r, o_c, m_c = _tile(R, C, BT, BC)
    j = tl.program_id(2)
    seq, start, stop = _sequence(o_r, m_r, owners, cu_seqlens, T)
    da = _spread(
        dy, weight, o_r, start, stop, o_c, m_r, m_c, j, C, J, W, dilation, before, BT, BC
    )  # fmt: skip
    m = m_r & m_c
    if RESIDUAL:
        da += tl.load(dy + o_r * C + o_c, mask=m, other=0.0).to(ACC)
    o_i = o_c * J + j
    if CAUSAL:
        at = seq * S + o_r - stop + S
        da += tl.load(dhT + at * (C * J) + o_i, mask=m & (o_r >= stop - S), other=0.0)
    b_x = tl.load(x + o_r * (C * J) + o_i, mask=m, other=0.0).to(ACC)
    z = b_x
    if scale is not None:
        factor = tl.load(scale + o_r, mask=m_r, other=0.0)
        z *= factor
    if bias is not None:
        z += tl.load(bias + o_i, mask=m_c, other=0.0)
    if SILU:
        s = sigmoid(z)
        da *= s * (1 + z * (1 - s))
    da = tl.where(m, da, 0.0)
    if bias is not None:
        part = tl.sum(da, 0, keep_dims=True)
        tl.store(dbias + tl.program_id(0).to(tl.int64) * (C * J) + o_i, part, mask=m_c)
    if scale is not None:
        part = tl.sum(da * b_x, 1, keep_dims=True)
        block = (tl.program_id(1) * J + j).to(tl.int64)
        tl.store(dscale + block * R + o_r, part, mask=m_r)
        da *= factor
    tl.store(dx + o_r * (C * J) + o_i, da.to(dx.dtype.element_ty), mask=m)


@triton.jit(do_not_specialize=["R", "T", "splits"])
def _taps(
    dy, x, bias, scale, h0, owners, cu_seqlens, dweight,
    R, T, C, J, W, dilation, S, before, splits,
    SILU: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """dw[c,j,n] = sum over t of dy[t,c] a[t + d n - before, c J + j]"""
    ACC: tl.constexpr = dweight.dtype.element_ty
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    m_c = o_c < C
    j, n = tl.program_id(2) // W, tl.program_id(2) % W
    total = tl.zeros([BT, BC], ACC)
    o_r = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)[:, None]
    for _ in range(tl.program_id(0), tl.cdiv(R, BT), splits):
        m_r = o_r < R
        seq, start, stop = _sequence(o_r, m_r, owners, cu_seqlens, T)
        g = tl.load(dy + o_r * C + o_c, mask=m_r & m_c, other=0.0).to(ACC)
        total += g * _read(
            x, bias, scale, h0, o_r + (dilation * n - before), seq, start, stop,
            o_c * J + j, m_r, m_c, C * J, S, SILU, ACC,
        )  # fmt: skip
        o_r += splits * BT
    o = (tl.program_id(0).to(tl.int64) * C + o_c) * (J * W) + tl.program_id(2)
    tl.store(dweight + o, tl.sum(total, 0, keep_dims=True), mask=m_c)


@triton.jit(do_not_specialize=["R", "T", "N"])
def _last_rows(
    x, weight, bias, scale, h0, cu_seqlens, hT,
    R, T, C, J, W, dilation, S, before, N,
    SILU: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """hT: the S rows of a before the end of a sequence, those of h0 where it is shorter."""
    ACC: tl.constexpr = hT.dtype.element_ty
    o_s, m_s, o_c, m_c = _tile(N * S, C, BT, BC)
    j = tl.program_id(2)
    seq = o_s // S
    start, stop = _bounds(seq, m_s, cu_seqlens, T)
    o_i = o_c * J + j
    a = _read(
        x, bias, scale, h0, stop - S + o_s % S, seq, start, stop,
        o_i, m_s, m_c, C * J, S, SILU, ACC,
    )  # fmt: skip
    tl.store(hT + o_s * (C * J) + o_i, a, mask=m_s & m_c)


@triton.jit(do_not_specialize=["R", "T", "N"])
def _first_rows(
    dy, dhT, weight, cu_seqlens, dh0,
    R, T, C, J, W, dilation, S, before, N,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """dh0: the gradient of the S rows before the start of a sequence."""
    o_s, m_s, o_c, m_c = _tile(N * S, C, BT, BC)
    j = tl.program_id(2)
    seq = o_s // S
    start, stop = _bounds(seq, m_s, cu_seqlens, T)
    o_r = start - S + o_s % S
    da = _spread(
        dy, weight, o_r, start, stop, o_c, m_s, m_c, j, C, J, W, dilation, before, BT, BC
    )  # fmt: skip
    o_i = o_c * J + j
    at = seq * S + o_r - stop + S
    da += tl.load(dhT + at * (C * J) + o_i, mask=m_s & m_c & (o_r >= stop - S), other=0.0)
    tl.store(dh0 + o_s * (C * J) + o_i, da, mask=m_s & m_c)


@triton.jit
def _tile(R, C, BT: tl.constexpr, BC: tl.constexpr):
    """Rows and channels of a program, and which of them there are."""
    o_r = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)[:, None]
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    return o_r, o_r < R, o_c, o_c < C


@triton.jit
def _sequence(o_r, m_r, owners, cu_seqlens, T):
    """The sequence of every row, its first row and the one behind its last."""
    if owners is not None:
        seq = tl.load(owners + o_r, mask=m_r, other=0)
    else:
        seq = o_r // T
    start, stop = _bounds(seq, m_r, cu_seqlens, T)
    return seq, start, stop


@triton.jit
def _bounds(seq, m, cu_seqlens, T):
    if cu_seqlens is not None:
        start = tl.load(cu_seqlens + seq, mask=m, other=0).to(tl.int64)
        stop = tl.load(cu_seqlens + seq + 1, mask=m, other=0).to(tl.int64)
    else:
        start = seq * T
        stop = start + T
    return start, stop


@triton.jit
def _read(
    x, bias, scale, h0, o_r, seq, start, stop, o_i, m_r, m_c, D, S,
    SILU: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Rows of a = act(scale x + bias); those of h0 before a sequence, zeros around it."""
    m_in = m_r & (o_r >= start) & (o_r < stop)
    z = tl.load(x + o_r * D + o_i, mask=m_in & m_c, other=0.0).to(ACC)
    if scale is not None:
        z *= tl.load(scale + o_r, mask=m_in, other=0.0)
    if bias is not None:
        z += tl.load(bias + o_i, mask=m_c, other=0.0)
    if SILU:
        z *= sigmoid(z)
    a = tl.where(m_in & m_c, z, 0.0)
    if h0 is not None:
        at = seq * S + o_r - start + S
        a += tl.load(h0 + at * D + o_i, mask=m_r & (o_r < start) & m_c, other=0.0)
    return a


@triton.jit
def _spread(
    dy, weight, o_r, start, stop, o_c, m_r, m_c, j, C, J, W, dilation, before,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """What the outputs hand back to rows of a that they read."""
    ACC: tl.constexpr = weight.dtype.element_ty
    da = tl.zeros([BT, BC], ACC)
    for n in range(W):
        row = o_r + before - dilation * n
        m_in = m_r & (row >= start) & (row < stop)
        w = tl.load(weight + (o_c * J + j) * W + n, mask=m_c, other=0.0)
        da += w * tl.load(dy + row * C + o_c, mask=m_in & m_c, other=0.0).to(ACC)
    return da
