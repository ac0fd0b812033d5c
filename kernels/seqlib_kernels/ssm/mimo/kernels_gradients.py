# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel that sums the gradients of weights; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..._core.kernels_chunks import inside, row_block
from ..kernels_pairs import plane, product, write_planes
from .kernels_walk import chunk_at, project, scan


@triton.jit
def before(x, entering, o_t):
    """x_t-1 for x_t [BT, BP], from the state that enters."""
    shifted = tl.gather(x, tl.broadcast_to(tl.maximum(o_t - 1, 0), x.shape), 0)
    return tl.where(o_t == 0, entering[None, :], shifted)


@triton.jit
def store_columns(p, o_c, m_c, i, x, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write columns of x as numbers i ... i + BLOCK - 1 of rows at offsets `o_c`."""
    o = i + tl.arange(0, BLOCK)
    mask = inside(o, WIDTH, BLOCK)[:, None] & m_c[None, :]
    tl.store(p + (o[:, None] + o_c[None, :]), x, mask=mask)


@triton.jit(do_not_specialize=["NS", "T", "slots", "per"])
def weight_gradients(
    u, dy, into, out_of, powers, states, adjoints, cu_seqlens,
    dinto, dout_of, da, dskip,
    NS, T, slots, per,
    H: tl.constexpr, P: tl.constexpr,
    PACKED: tl.constexpr, BACKWARDS: tl.constexpr,
    BT: tl.constexpr, BP: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """U' S and dY' X, and of a the sum of s_t x_t-1*. The states are computed again.

    A program takes `per` chunks, BP states and BH channels.
    """
    ACC: tl.constexpr = states.dtype.element_ty
    STEP: tl.constexpr = -H if BACKWARDS else H
    columns: tl.constexpr = (H + BH - 1) // BH
    blocks = columns * tl.cdiv(P, BP)
    i_g = (tl.program_id(0) // blocks).to(tl.int64)
    i_h = tl.program_id(0) % columns * BH
    i_p = tl.program_id(0) % blocks // columns * BP
    o_p = i_p + tl.arange(0, BP)
    m_p = inside(o_p, P, BP)
    o_h = i_h + tl.arange(0, BH)
    o_t = tl.arange(0, BT)[:, None]
    o_x = tl.arange(0, BT)

    b_re = tl.zeros([BH, BP], ACC)
    b_im, c_re, c_im = b_re, b_re, b_re
    a_re = tl.zeros([BP], ACC)
    a_im = a_re
    d = tl.zeros([BH], ACC)
    for i_s in tl.range(i_g * per, tl.minimum(i_g * per + per, slots), disable_licm=True):
        o_u, tokens = chunk_at(cu_seqlens, i_s, NS, T, H, PACKED, BACKWARDS, BT)
        m_x = o_x < tokens
        x_re, x_im = project(u + o_u, into, o_x * STEP, m_x, o_p, m_p, H, P, BK, ACC, PRECISION)
        entering = states + i_s * (2 * P)
        x_re, x_im = scan(x_re, x_im, powers, entering, o_t, tokens, o_p, m_p, P, False)
        b_dy = row_block(dy + o_u, o_x * STEP, m_x, i_h, H, BH).to(ACC)
        c_re = tl.dot(tl.trans(b_dy), x_re, c_re, input_precision=PRECISION)
        c_im = tl.dot(tl.trans(b_dy), x_im, c_im, input_precision=PRECISION)

        s_re, s_im = project(dy + o_u, out_of, o_x * STEP, m_x, o_p, m_p, H, P, BK, ACC, PRECISION)
        s_re, s_im = scan(
            s_re, s_im, powers, adjoints + i_s * (2 * P), o_t, tokens, o_p, m_p, P, True
        )  # fmt: skip
        b_u = row_block(u + o_u, o_x * STEP, m_x, i_h, H, BH).to(ACC)
        b_re = tl.dot(tl.trans(b_u), s_re, b_re, input_precision=PRECISION)
        b_im = tl.dot(tl.trans(b_u), s_im, b_im, input_precision=PRECISION)
        if dskip is not None:
            d += tl.sum(b_u * b_dy, axis=0)

        x_re = before(x_re, plane(entering, o_p, m_p, 0, P), o_t)
        x_im = before(x_im, plane(entering, o_p, m_p, 1, P), o_t)
        x_re, x_im = product(s_re, s_im, x_re, -x_im)
        a_re += tl.sum(tl.where(o_t < tokens, x_re, 0.0), axis=0)
        a_im += tl.sum(tl.where(o_t < tokens, x_im, 0.0), axis=0)
    o_w = o_p * H
    dinto += i_g * (2 * P * H)
    dout_of += i_g * (2 * P * H)
    store_columns(dinto, o_w, m_p, i_h, b_re, H, BH)
    store_columns(dinto + P * H, o_w, m_p, i_h, b_im, H, BH)
    store_columns(dout_of, o_w, m_p, i_h, c_re, H, BH)
    store_columns(dout_of + P * H, o_w, m_p, i_h, c_im, H, BH)
    if i_h == 0:
        write_planes(da, i_g * (2 * P) + o_p, m_p, a_re, a_im, P)
    if i_p == 0:
        m_h = inside(o_h, H, BH)
        if dskip is not None:
            tl.store(dskip + i_g * H + o_h, d, mask=m_h)
