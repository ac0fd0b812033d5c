# SPDX-License-Identifier: Apache-2.0
"""Triton kernels between parameters and the tables of chunks, in float64; see KERNELS.md."""
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
def power(x_re, x_im, n):
    """x^n"""
    re, im = x_re, x_im
    for _ in tl.range(1, n):
        re, im = product(re, im, x_re, x_im)
    return re, im


@triton.jit(do_not_specialize=["groups"])
def make_tables(
    a, b, c, skip,
    tables, steps,
    groups,
    M: tl.constexpr, SKIP: tl.constexpr, BT: tl.constexpr, R: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """lags_k = Re(sum c b a^k) + [k = 0] D; write_k = b a^k; read_k = (c a^(k+1))*; powers_k = a^k.

    Of a channel, which a program takes, these lie one after the other in `tables`: [BT], [BT,2,M],
    [BT,2,M] and [BT+1,2,M]. `steps` [H,2,2,M], in float64, has a^((R - 1) BT) and the power
    `groups` of it.
    """
    POWERS: tl.constexpr = BT * (1 + 4 * M)
    i_h = tl.program_id(0)
    p = tables + i_h * (POWERS + (BT + 1) * 2 * M)
    o_k = tl.arange(0, BT)[:, None]
    lags = tl.zeros([BT], tl.float64)
    if SKIP:
        lags += tl.where(tl.arange(0, BT) == 0, tl.load(skip + i_h).to(tl.float64), 0.0)
    for i_m in tl.range(0, M, BM):
        o_m = i_m + tl.arange(0, BM)[None, :]
        m_m = o_m < M
        m = m_m & (o_k < BT)
        o_p = o_k * (2 * M) + o_m
        a_re, a_im = load_pair(a, i_h * M + o_m, m_m)
        b_re, b_im = load_pair(b, i_h * M + o_m, m_m)
        c_re, c_im = load_pair(c, i_h * M + o_m, m_m)
        p_re, p_im = powers_before(a_re, a_im, o_k)
        p_re, p_im = after(p_re, p_im, a_re, a_im, o_k)
        write_planes(p + POWERS, o_p, m & (o_k == 0), p_re, p_im, M)
        w_re, w_im = product(p_re, p_im, b_re, b_im)
        write_planes(p + BT, o_p, m, w_re, w_im, M)
        lags += tl.sum(w_re * c_re - w_im * c_im, axis=1)
        p_re, p_im = product(p_re, p_im, a_re, a_im)
        write_planes(p + POWERS + 2 * M, o_p, m, p_re, p_im, M)
        w_re, w_im = product(p_re, p_im, c_re, c_im)
        write_planes(p + BT * (1 + 2 * M), o_p, m, w_re, -w_im, M)

        p_re = over_time(tl.where(o_k == BT - 1, p_re, 0.0))
        p_im = over_time(tl.where(o_k == BT - 1, p_im, 0.0))
        p_re, p_im = power(p_re, p_im, R - 1)
        write_planes(steps, i_h * (4 * M) + o_m, m_m, p_re, p_im, M)
        p_re, p_im = power(p_re, p_im, groups)
        write_planes(steps, i_h * (4 * M) + 2 * M + o_m, m_m, p_re, p_im, M)
    tl.store(p + tl.arange(0, BT), lags.to(tables.dtype.element_ty))


@triton.jit(do_not_specialize=["splits"])
def parameter_gradients(
    a, b, c, parts,
    da, db, dc, dskip,
    splits, H: tl.constexpr, M: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """The gradients of a, b, c and D from those of the tables, summed over their parts.

    A program takes a channel and BM of its modes. See `table_gradients` for the parts.
    """
    PART: tl.constexpr = BT * (BT + 4 * M) + 2 * M
    i_h = tl.program_id(0)
    o_t = tl.arange(0, BT)
    o_k = o_t[:, None]
    o_m = tl.program_id(1) * BM + tl.arange(0, BM)[None, :]
    m_m = o_m < M
    lag = tl.zeros([BT], tl.float64)
    w_re = tl.zeros([BT, BM], tl.float64)
    w_im, r_re, r_im = w_re, w_re, w_re
    da_re = tl.zeros([1, BM], tl.float64)
    da_im = da_re
    parts += i_h.to(tl.int64) * PART
    o_w = BT * BT + o_k * (2 * M) + o_m
    o_a = BT * (BT + 4 * M) + o_m
    for _ in tl.range(0, splits):
        for j in tl.range(0, BT):  # the diagonals of the product of inputs with outputs
            on = tl.load(parts + j * (BT + 1) + o_t, mask=j + o_t < BT, other=0.0)
            lag += on.to(tl.float64)
        w_re += plane(parts, o_w, m_m, 0, M).to(tl.float64)
        w_im += plane(parts, o_w, m_m, 1, M).to(tl.float64)
        r_re += plane(parts, o_w + BT * 2 * M, m_m, 0, M).to(tl.float64)
        r_im -= plane(parts, o_w + BT * 2 * M, m_m, 1, M).to(tl.float64)
        da_re += plane(parts, o_a, m_m, 0, M).to(tl.float64)
        da_im += plane(parts, o_a, m_m, 1, M).to(tl.float64)
        parts += H * PART
    if dskip is not None:
        first = tl.sum(tl.where(o_t == 0, lag, 0.0), axis=0)
        tl.store(dskip + i_h, first.to(dskip.dtype.element_ty), mask=tl.program_id(1) == 0)
    lag = lag[:, None]

    a_re, a_im = load_pair(a, i_h * M + o_m, m_m)
    b_re, b_im = load_pair(b, i_h * M + o_m, m_m)
    c_re, c_im = load_pair(c, i_h * M + o_m, m_m)
    p_re, p_im = powers_before(a_re, a_im, o_k)
    # of b a^k, through write and lags, and of a in it
    g_re = w_re + lag * c_re
    g_im = w_im - lag * c_im
    x_re, x_im = product(g_re, g_im, b_re, -b_im)
    x_re, x_im = product(o_k * x_re, o_k * x_im, p_re, -p_im)
    da_re += over_time(x_re)
    da_im += over_time(x_im)
    p_re, p_im = after(p_re, p_im, a_re, a_im, o_k)
    g_re, g_im = product(g_re, g_im, p_re, -p_im)
    store_pair(db, i_h * M + o_m, m_m, over_time(g_re), over_time(g_im))
    # of c a^(k + 1), through read, and of a in it
    x_re, x_im = product(r_re, r_im, c_re, -c_im)
    x_re, x_im = product((o_k + 1) * x_re, (o_k + 1) * x_im, p_re, -p_im)
    da_re += over_time(x_re)
    da_im += over_time(x_im)
    store_pair(da, i_h * M + o_m, m_m, da_re, da_im)
    g_re, g_im = product(p_re, p_im, a_re, a_im)
    g_re, g_im = product(r_re, r_im, g_re, -g_im)
    # c in the lags multiplies b a^k
    x_re, x_im = product(p_re, p_im, b_re, b_im)
    g_re, g_im = over_time(g_re + lag * x_re), over_time(g_im - lag * x_im)
    store_pair(dc, i_h * M + o_m, m_m, g_re, g_im)


@triton.jit
def over_time(x):
    """The sum [1, BM] over rows."""
    return tl.sum(x, axis=0, keep_dims=True)
