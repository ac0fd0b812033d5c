# SPDX-License-Identifier: Apache-2.0
"""Triton kernels between float64 parameters and what chunks are multiplied with; see KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..kernels_pairs import (
    after,
    load_pair,
    plane,
    powers_before,
    product,
    store_pair,
    write_planes,
)


@triton.jit
def make_tables(
    a, B, C,
    powers, span, into, out_of,
    H: tl.constexpr, P: tl.constexpr, BT: tl.constexpr, BP: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """powers_k = a^k and span = a^BT; into = B, out_of = C* transposed, as planes.

    A program takes BP states and BH channels.
    """
    columns: tl.constexpr = (H + BH - 1) // BH
    i_p = tl.program_id(0) // columns * BP
    i_h = tl.program_id(0) % columns * BH
    o_p = i_p + tl.arange(0, BP)[:, None]
    o_h = i_h + tl.arange(0, BH)[None, :]
    m = (o_p < P) & (o_h < H)
    w_re, w_im = load_pair(B, o_p * H + o_h, m)
    write_planes(into, o_p * H + o_h, m, w_re, w_im, P * H)
    w_re, w_im = load_pair(C, o_h * P + o_p, m)
    write_planes(out_of, o_p * H + o_h, m, w_re, -w_im, P * H)

    if i_h == 0:
        write_powers(a, powers, span, i_p + tl.arange(0, BP)[None, :], P, BT)


@triton.jit
def write_powers(a, powers, span, o_p, P: tl.constexpr, BT: tl.constexpr):
    """powers_k = a^k for k to BT, and span = a^BT."""
    m_p = o_p < P
    o_k = tl.arange(0, BT)[:, None]
    m = m_p & (o_k < BT)
    a_re, a_im = load_pair(a, o_p, m_p)
    p_re, p_im = powers_before(a_re, a_im, o_k)
    p_re, p_im = after(p_re, p_im, a_re, a_im, o_k)
    write_planes(powers, o_k * (2 * P) + o_p, m & (o_k == 0), p_re, p_im, P)
    p_re, p_im = product(p_re, p_im, a_re, a_im)
    write_planes(powers, (o_k + 1) * (2 * P) + o_p, m, p_re, p_im, P)
    s_re = tl.sum(tl.where(o_k == BT - 1, p_re, 0.0), axis=0, keep_dims=True)
    s_im = tl.sum(tl.where(o_k == BT - 1, p_im, 0.0), axis=0, keep_dims=True)
    write_planes(span, o_p, m_p, s_re, s_im, P)


@triton.jit(do_not_specialize=["splits"])
def parameter_gradients(
    dinto, dout_of, rest, skips,
    da, dB, dC, dskip,
    splits,
    H: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """The gradients of a, B, C and D: sums of their parts, in float64 and in order."""
    columns: tl.constexpr = (H + BH - 1) // BH
    i_p = tl.program_id(0) // columns * BP
    i_h = tl.program_id(0) % columns * BH
    o_p = i_p + tl.arange(0, BP)[:, None]
    o_h = i_h + tl.arange(0, BH)[None, :]
    m_p, m_h = o_p < P, o_h < H
    m = m_p & m_h
    b_re = tl.zeros([BP, BH], tl.float64)
    b_im, c_re, c_im = b_re, b_re, b_re
    a_re = tl.zeros([BP, 1], tl.float64)
    a_im = a_re
    d = tl.zeros([1, BH], tl.float64)
    for _ in tl.range(0, splits):
        o = o_p * H + o_h
        b_re += plane(dinto, o, m, 0, P * H)
        b_im += plane(dinto, o, m, 1, P * H)
        c_re += plane(dout_of, o, m, 0, P * H)
        c_im -= plane(dout_of, o, m, 1, P * H)
        a_re += plane(rest, o_p, m_p, 0, P)
        a_im += plane(rest, o_p, m_p, 1, P)
        if dskip is not None:
            d += tl.load(skips + o_h, mask=m_h, other=0.0)
            skips += H
        dinto += 2 * P * H
        dout_of += 2 * P * H
        rest += 2 * P
    store_pair(dB, o_p * H + o_h, m, b_re, b_im)
    store_pair(dC, o_h * P + o_p, m, c_re, c_im)
    if i_h == 0:
        store_pair(da, o_p, m_p, a_re, a_im)
    if i_p == 0:
        m_h = o_h < H
        if dskip is not None:
            tl.store(dskip + o_h, d, mask=m_h)
