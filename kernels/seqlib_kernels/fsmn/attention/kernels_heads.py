# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the four heads: gain, offset and rotation of qk, and their gradients."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import math

import triton
import triton.language as tl

from ..._core.kernels_chunks import bounds, locate

RUNTIME = ["NS", "T"]  # lengths never choose the code
QUARTER = tl.constexpr(math.pi / 2)


@triton.jit
def own_rows(cu_seqlens, NS, T, G: tl.constexpr, BLOCK: tl.constexpr, PACKED: tl.constexpr):
    """Where a program [slot, block, ...] works.

    Returns:
        Its slot and sequence; its group's first row among all rows, and that row's position; how
        many rows the group has, none in a slot that is not used; its first row in the group.
    """
    i_slot = tl.program_id(0).to(tl.int64)
    i_n, i_c = locate(cu_seqlens, i_slot, NS, T, G, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    first = i_c * G
    left = tl.maximum(tl.minimum(length - first, G), 0).to(tl.int32)
    return i_slot, i_n, start + first, first, left, tl.program_id(1) * BLOCK


@triton.jit
def cosine_sine(angle):
    """Of float64 angles, as float32; the library's own functions take stack memory.

    The angle is reduced in float64: a long recording has frames enough for the rounding of a
    float32 product to show. The series end where the next term is below float32 at pi / 4.
    """
    quarter = tl.floor(angle / QUARTER + 0.5)
    x = (angle - quarter * QUARTER).to(tl.float32)
    y = x * x
    cosine = 1 - y / 2 * (1 - y / 12 * (1 - y / 30 * (1 - y / 56 * (1 - y / 90))))
    sine = x * (1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72))))
    quarter = (quarter - 4 * tl.floor(quarter / 4)).to(tl.int32)
    swapped = quarter % 2 == 1
    first = tl.where(swapped, sine, cosine)
    second = tl.where(swapped, cosine, sine)
    first = tl.where((quarter == 1) | (quarter == 2), -first, first)
    return first, tl.where(quarter >= 2, -second, second)


@triton.jit
def rotation(freqs, position, o_s, R: tl.constexpr, ACC: tl.constexpr):
    """Cosines, and sines with the sign that the other number of a pair gets, of [rows, S]."""
    freq = tl.load(freqs + o_s // 2, mask=o_s < R, other=0.0).to(tl.float64)
    angle = position.to(tl.float64)[:, None] * freq[None, :]
    if tl.float64 == ACC:
        cosine, sine = tl.cos(angle), tl.sin(angle)
    else:
        cosine, sine = cosine_sine(angle)
    return cosine, tl.where(o_s[None, :] % 2 == 0, -sine, sine)


@triton.jit
def partner(o_s, R: tl.constexpr):
    """The other channel of each one's pair; beyond the rotated ones, itself."""
    return tl.where(o_s < R, o_s ^ 1, o_s)


@triton.jit(do_not_specialize=RUNTIME)
def write_heads(
    qk, gamma, beta, freqs, cu_seqlens,
    heads,
    NS, T,
    S: tl.constexpr, R: tl.constexpr, G: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Heads [rows, 4, S]: gamma_i qk + beta_i, rotated, of BH frames."""
    _, _, row, first, left, i_r = own_rows(cu_seqlens, NS, T, G, BH, PACKED)
    if i_r >= left:
        return
    o_r = i_r + tl.arange(0, BH)
    o_s = tl.arange(0, BW)
    m_s = o_s < S
    mask = (o_r < left)[:, None] & m_s[None, :]
    cosine, sine = rotation(freqs, first + o_r, o_s, R, ACC)
    o_p = partner(o_s, R)
    p_x = qk + row * S + o_r[:, None] * S
    x = tl.load(p_x + o_s[None, :], mask=mask, other=0.0).to(ACC)
    y = tl.load(p_x + o_p[None, :], mask=mask, other=0.0).to(ACC)
    p_out = heads + row * 4 * S + o_r[:, None] * (4 * S) + o_s[None, :]
    for i in tl.static_range(4):
        gain = tl.load(gamma + i * S + o_s, mask=m_s, other=0.0).to(ACC)
        shift = tl.load(beta + i * S + o_s, mask=m_s, other=0.0).to(ACC)
        other_gain = tl.load(gamma + i * S + o_p, mask=m_s, other=0.0).to(ACC)
        other_shift = tl.load(beta + i * S + o_p, mask=m_s, other=0.0).to(ACC)
        head = (x * gain + shift) * cosine + (y * other_gain + other_shift) * sine
        tl.store(p_out + i * S, head.to(heads.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def qk_gradients(
    qk, gamma, freqs, dheads, cu_seqlens,
    dqk, parts,
    NS, T,
    S: tl.constexpr, R: tl.constexpr, G: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dqk of BH frames, and their part [2, 4, S] of the gradients of gamma and beta."""
    i_slot, _, row, first, left, i_r = own_rows(cu_seqlens, NS, T, G, BH, PACKED)
    o_r = i_r + tl.arange(0, BH)
    o_s = tl.arange(0, BW)
    m_s = o_s < S
    mask = (o_r < left)[:, None] & m_s[None, :]
    cosine, sine = rotation(freqs, first + o_r, o_s, R, ACC)
    o_p = partner(o_s, R)
    o_x = o_r[:, None] * S + o_s[None, :]
    x = tl.load(qk + row * S + o_x, mask=mask, other=0.0).to(ACC)
    p_d = dheads + row * 4 * S + o_r[:, None] * (4 * S)
    p_parts = parts + (i_slot * tl.num_programs(1) + tl.program_id(1)) * 8 * S + o_s
    dx = tl.zeros([BH, BW], dtype=ACC)
    for i in tl.static_range(4):
        gain = tl.load(gamma + i * S + o_s, mask=m_s, other=0.0).to(ACC)
        d = tl.load(p_d + i * S + o_s[None, :], mask=mask, other=0.0).to(ACC)
        other = tl.load(p_d + i * S + o_p[None, :], mask=mask, other=0.0).to(ACC)
        d = d * cosine - other * sine
        dx += d * gain[None, :]
        tl.store(p_parts + i * S, tl.sum(d * x, axis=0), mask=m_s)
        tl.store(p_parts + (4 + i) * S, tl.sum(d, axis=0), mask=m_s)
    tl.store(dqk + row * S + o_x, dx.to(dqk.dtype.element_ty), mask=mask)
