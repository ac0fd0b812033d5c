# SPDX-License-Identifier: Apache-2.0
# Triton reads these functions differently from Python:
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
"""Triton kernels of the linear scan: one launch forward, one backward.

A program takes BD channels of one sequence and walks through its time in tiles of BT steps:
an associative scan inside the tile, the state carried from tile to tile in registers. Rows of a
tile are numbered in the order of the walk, so that a scan in reverse is a matter of addresses.
Complex numbers are pairs of reals, adjacent in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import LAUNCH


def forward(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    h: Tensor,
    hT: Tensor,
    reverse: bool,
) -> None:
    """Fill h [B, T, D] and hT [N, D]; every tensor is contiguous."""
    _launch(_scan, (a, b, h0, cu_seqlens, h, hT), h, hT, reverse)


def backward(
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    dh: Tensor,
    dhT: Tensor,
    cu_seqlens: Tensor | None,
    da: Tensor,
    db: Tensor,
    dh0: Tensor,
    reverse: bool,
) -> None:
    """Fill da, db [B, T, D] and dh0 [N, D]; every tensor is contiguous."""
    _launch(_adjoint, (a, h, h0, dh, dhT, cu_seqlens, da, db, dh0), h, dh0, reverse)


def _launch(
    kernel: triton.JITFunction,
    tensors: tuple[Tensor | None, ...],
    x: Tensor,
    state: Tensor,
    reverse: bool,
) -> None:
    T, (N, D) = x.shape[1], state.shape
    if not state.numel():
        return
    row = LAUNCH.pick(x, D, x.element_size())
    pairs = (torch.view_as_real(y) if y is not None and y.is_complex() else y for y in tensors)
    # One axis: the second axis of a CUDA grid ends at 65535, which packed batches pass.
    grid = (N * triton.cdiv(D, row.tiles["BD"]),)
    kernel[grid](*pairs, T, D, REVERSE=reverse, COMPLEX=x.is_complex(), **row.options())


@triton.jit(do_not_specialize=["T"])
def _scan(
    a, b, h0, cu_seqlens, h, hT,
    T, D,
    REVERSE: tl.constexpr, COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """h[t] = a[t] h[t-1] + b[t]"""
    ACC: tl.constexpr = hT.dtype.element_ty
    i_n, first, length, o_d, m_d = _sequence(cu_seqlens, T, D, BD)
    o_t = tl.arange(0, BT)[:, None]
    STEP: tl.constexpr = -1 if REVERSE else 1
    o = STEP * o_t * D + o_d  # [BT, BD]
    o_row = (first + (length - 1 if REVERSE else 0)) * D

    if h0 is not None:
        c_re, c_im = _load(h0, i_n * D, o_d, m_d, 0.0, COMPLEX, ACC)  # [1, BD]
    else:
        c_re = tl.zeros([1, BD], ACC)
        c_im = c_re
    for i in tl.range(0, length, BT):
        m = (i + o_t < length) & m_d
        # Steps past the end multiply by one and add zero.
        a_re, a_im = _load(a, o_row, o, m, 1.0, COMPLEX, ACC)
        b_re, b_im = _load(b, o_row, o, m, 0.0, COMPLEX, ACC)
        h_re, h_im = _scan_tile(a_re, a_im, b_re, b_im, c_re, c_im, o_t, COMPLEX)
        _store(h, o_row, o, m, h_re, h_im, COMPLEX)
        c_re = _last(h_re, o_t, BT)
        c_im = _last(h_im, o_t, BT)
        o_row += STEP * BT * D
    _store(hT, i_n * D, o_d, m_d, c_re, c_im, COMPLEX)


@triton.jit(do_not_specialize=["T"])
def _adjoint(
    a, h, h0, dh, dhT, cu_seqlens, da, db, dh0,
    T, D,
    REVERSE: tl.constexpr, COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """g[t] = dh[t] + a[t+1]* g[t+1];  db[t] = g[t];  da[t] = g[t] h[t-1]*, with * the conjugate"""
    ACC: tl.constexpr = dh0.dtype.element_ty
    i_n, first, length, o_d, m_d = _sequence(cu_seqlens, T, D, BD)
    o_t = tl.arange(0, BT)[:, None]
    STEP: tl.constexpr = 1 if REVERSE else -1  # against the scan
    o = STEP * o_t * D + o_d  # [BT, BD]
    o_row = (first + (0 if REVERSE else length - 1)) * D

    c_re, c_im = _load(dhT, i_n * D, o_d, m_d, 0.0, COMPLEX, ACC)  # [1, BD]
    for i in tl.range(0, length, BT):
        m = (i + o_t < length) & m_d
        # The row before in the walk is the step after in the scan; the first row adds dhT as is.
        m_after = m & (i + o_t > 0)
        a_re, a_im = _load(a, o_row - STEP * D, o, m_after, 1.0, COMPLEX, ACC)
        g_re, g_im = _load(dh, o_row, o, m, 0.0, COMPLEX, ACC)
        g_re, g_im = _scan_tile(a_re, -a_im, g_re, g_im, c_re, c_im, o_t, COMPLEX)
        _store(db, o_row, o, m, g_re, g_im, COMPLEX)

        m_before = m & (i + o_t + 1 < length)
        h_re, h_im = _load(h, o_row + STEP * D, o, m_before, 0.0, COMPLEX, ACC)
        if h0 is not None:
            m_start = m & (i + o_t + 1 == length)
            s_re, s_im = _load(h0, i_n * D, o_d + 0 * o_t, m_start, 0.0, COMPLEX, ACC)
            h_re = tl.where(m_start, s_re, h_re)
            h_im = tl.where(m_start, s_im, h_im)
        d_re, d_im = _times(g_re, g_im, h_re, -h_im, COMPLEX)
        _store(da, o_row, o, m, d_re, d_im, COMPLEX)
        c_re = _last(g_re, o_t, BT)
        c_im = _last(g_im, o_t, BT)
        o_row += STEP * BT * D
    o_row = (first + (length - 1 if REVERSE else 0)) * D
    m_any = m_d & (0 * o_d < length)  # none if the sequence is empty
    a_re, a_im = _load(a, o_row, o_d, m_any, 1.0, COMPLEX, ACC)
    c_re, c_im = _times(c_re, c_im, a_re, -a_im, COMPLEX)
    _store(dh0, i_n * D, o_d, m_d, c_re, c_im, COMPLEX)


@triton.jit
def _sequence(cu_seqlens, T, D, BD: tl.constexpr):
    """This program's sequence, its first row, its length, and its channels with their mask."""
    blocks = tl.cdiv(D, BD)
    i_n = (tl.program_id(0) // blocks).to(tl.int64)  # N*T*D passes 2**31 at training sizes
    o_d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)[None, :]
    if cu_seqlens is not None:
        first = tl.load(cu_seqlens + i_n).to(tl.int64)
        length = (tl.load(cu_seqlens + i_n + 1) - first).to(tl.int32)
    else:
        first = i_n * T
        length = T
    return i_n, first, length, o_d, o_d < D


@triton.jit
def _scan_tile(a_re, a_im, b_re, b_im, c_re, c_im, o_t, COMPLEX: tl.constexpr):
    """The scan of a tile [BT, BD] that the state c [1, BD] enters."""
    e_re, e_im = _times(a_re, a_im, c_re, c_im, COMPLEX)
    b_re = tl.where(o_t == 0, e_re + b_re, b_re)
    if COMPLEX:
        b_im = tl.where(o_t == 0, e_im + b_im, b_im)
        _, _, h_re, h_im = tl.associative_scan((a_re, a_im, b_re, b_im), 0, _then_complex)
        return h_re, h_im
    _, h_re = tl.associative_scan((a_re, b_re), 0, _then)
    return h_re, h_re


@triton.jit
def _then(a1, b1, a2, b2):
    """First h -> a1 h + b1, then h -> a2 h + b2."""
    return a2 * a1, a2 * b1 + b2


@triton.jit
def _then_complex(ar1, ai1, br1, bi1, ar2, ai2, br2, bi2):
    return (
        ar2 * ar1 - ai2 * ai1,
        ar2 * ai1 + ai2 * ar1,
        ar2 * br1 - ai2 * bi1 + br2,
        ar2 * bi1 + ai2 * br1 + bi2,
    )


@triton.jit
def _times(x_re, x_im, y_re, y_im, COMPLEX: tl.constexpr):
    if COMPLEX:
        return x_re * y_re - x_im * y_im, x_re * y_im + x_im * y_re
    return x_re * y_re, x_re * y_re


@triton.jit
def _last(x, o_t, BT: tl.constexpr):
    return tl.sum(tl.where(o_t == BT - 1, x, 0.0), 0, keep_dims=True)


@triton.jit
def _load(x, start, o, m, other: tl.constexpr, COMPLEX: tl.constexpr, ACC: tl.constexpr):
    """Elements start + o as real and imaginary parts; of reals, the number twice."""
    if COMPLEX:
        o_pair = (2 * o)[:, :, None] + tl.arange(0, 2)[None, None, :]
        pair = tl.load(x + 2 * start + o_pair, mask=m[:, :, None], other=0.0).to(ACC)
        re, im = tl.split(pair)
        return tl.where(m, re, other), im
    number = tl.load(x + start + o, mask=m, other=other).to(ACC)
    return number, number


@triton.jit
def _store(x, start, o, m, re, im, COMPLEX: tl.constexpr):
    if COMPLEX:
        o_pair = (2 * o)[:, :, None] + tl.arange(0, 2)[None, None, :]
        tl.store(x + 2 * start + o_pair, tl.join(re, im).to(x.dtype.element_ty), mask=m[:, :, None])
    else:
        tl.store(x + start + o, re.to(x.dtype.element_ty), mask=m)
