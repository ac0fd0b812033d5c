# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel that walks through sequences; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..._core.kernels_chunks import bounds, first_slot, locate
from ..kernels_pairs import load_pair, plane, product, store_pair, then


@triton.jit(do_not_specialize=["NS", "T", "per"])
def walk(
    u, tables, steps, h0, ends, cu_seqlens,
    y, hT, carry, states,
    NS, T, per,
    H: tl.constexpr, M: tl.constexpr,
    PACKED: tl.constexpr, BACKWARDS: tl.constexpr, ADJOINT: tl.constexpr, SPLIT: tl.constexpr,
    INITIAL: tl.constexpr, OUTPUT: tl.constexpr, KEEP: tl.constexpr,
    BT: tl.constexpr, R: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Y = U Lags + X Read, where X, the states before chunks, is a scan of V Write.

    V is U with each chunk's tokens from its last to its first. Rows are R boundaries of chunks:
    the first stands for the state that is carried, the last is carried on. It passes through
    `carry`: threads read what others wrote only behind a barrier.

    The adjoint, in which Read and Write change places, walks the other way over the same chunks,
    so that its first one may be short.

    A program takes a sequence or, with SPLIT, a segment of it, `per` chunks. Without OUTPUT it
    leaves the state at the end of its segment alone, from zero but in the first. These are the
    `ends` from which programs with OUTPUT start.
    """
    ACC: tl.constexpr = carry.dtype.element_ty
    STEP: tl.constexpr = -H if BACKWARDS else H
    SIGN: tl.constexpr = -1 if ADJOINT else 1  # the adjoint multiplies by conjugates
    WRITE: tl.constexpr = BT * (1 + 2 * M) if ADJOINT else BT
    READ: tl.constexpr = BT if ADJOINT else BT * (1 + 2 * M)
    POWERS: tl.constexpr = BT * (1 + 4 * M)
    SIZE: tl.constexpr = POWERS + (BT + 1) * 2 * M
    blocks = tl.cdiv(H, BH)
    i_s = (tl.program_id(0) // blocks).to(tl.int64)
    o_h = tl.program_id(0) % blocks * BH + tl.arange(0, BH)[:, None, None]
    m_h = o_h < H
    o_r = tl.arange(0, R)[None, :, None]
    o_t = tl.arange(0, BT)
    o_m = tl.arange(0, BM)
    i_n, i_g = i_s, i_s * 0
    if SPLIT:
        i_n, i_g = locate(cu_seqlens, i_s, NS, T, per * BT, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    slot = first_slot(cu_seqlens, i_n, T, BT, PACKED)
    chunks = (length + BT - 1) // BT
    short = 0
    if ADJOINT:
        short = (chunks * BT - length).to(tl.int32)  # what the first chunk lacks
    here, end = i_s * 0, chunks
    if SPLIT:
        here = i_g * per
        if OUTPUT:
            unused = (i_g > 0) & (here >= chunks)
        else:
            unused = here + per >= chunks  # no segment starts from its end
        if unused:
            return
        end = tl.minimum(here + per, chunks)
    p_carry = carry + i_s * H * M * 2
    o_hm = tl.reshape(o_h, [BH, 1]) * M + o_m[None, :]
    m_c = tl.reshape(m_h, [BH, 1])

    for i_m in tl.range(0, M, BM):
        m_hm = m_c & (i_m + o_m < M)[None, :]
        h_re = tl.zeros([BH, BM], ACC)
        h_im = h_re
        if INITIAL:
            m_h0 = m_hm & (0 * o_hm + i_g == 0)
            h_re, h_im = load_pair(h0 + i_n * H * M * 2, o_hm + i_m, m_h0)
        if OUTPUT and SPLIT:
            o_j = tl.reshape(o_h, [BH, 1]) * (4 * M) + 2 * M + i_m + o_m[None, :]
            for i in tl.range(0, i_g):
                e_re, e_im = load_pair(ends + (i_s - i_g + i) * H * M * 2, o_hm + i_m, m_hm)
                x_re, x_im = stretch(h_re, h_im, steps, o_j, m_hm, SIGN, M)
                h_re, h_im = (x_re + e_re).to(ACC), (x_im + e_im).to(ACC)
        store_pair(p_carry, o_hm + i_m, m_hm, h_re, h_im)
    tl.debug_barrier()  # other threads wrote what this one reads

    for i in tl.range(here, end, R - 1, disable_licm=True):
        lacks = tl.where(i == 0, short, 0)
        first = i * BT - (short - lacks)  # in the order of the walk
        rest = tl.minimum(length - first, R * BT).to(tl.int32)
        row = start + first
        if BACKWARDS:
            row = start + length - 1 - first
        # Where each row's chunk begins and how many tokens it has; the same of the one before.
        begin = tl.maximum(o_r * BT - lacks, 0)
        tokens = tl.maximum(tl.minimum(o_r * BT + BT - lacks, rest) - begin, 0)
        begin_before = tl.maximum(o_r * BT - BT - lacks, 0)
        before = tl.maximum(tl.minimum(o_r * BT - lacks, rest) - begin_before, 0)
        m_v = (o_t[None, None, :] < before) & m_h
        o_v = (begin_before + before - 1 - o_t[None, None, :]) * STEP + o_h
        p_u = u + row * H
        whole = (lacks == 0) & (rest >= (R - 1) * BT)

        b_y = tl.zeros([BH, R, BT], ACC)
        for i_m in tl.range(0, M, BM, disable_licm=True):
            m_m = i_m + o_m < M
            b_v = tl.load(p_u + o_v, mask=m_v, other=0.0).to(ACC)
            # Columns are modes here, and rows below, where states are read.
            o_k = o_h * SIZE + WRITE + o_t[None, :, None] * (2 * M) + i_m + o_m[None, None, :]
            m_k = m_h & m_m[None, None, :]
            s_re = tl.dot(b_v, plane(tables, o_k, m_k, 0, M), input_precision=PRECISION)
            s_im = tl.dot(b_v, plane(tables, o_k, m_k, 1, M), input_precision=PRECISION)
            o_p = o_h * SIZE + POWERS + before * (2 * M) + i_m + o_m[None, None, :]
            a_re = plane(tables, o_p, m_k, 0, M)
            a_im = SIGN * plane(tables, o_p, m_k, 1, M)
            a_re, a_im, s_re, s_im = tl.associative_scan((a_re, a_im, s_re, s_im), 1, then)

            m_hm = m_c & m_m[None, :]
            h_re, h_im = load_pair(p_carry, o_hm + i_m, m_hm)
            x_re, x_im = product(a_re, a_im, h_re[:, None, :], h_im[:, None, :])
            x_re += s_re
            x_im += s_im
            if KEEP:
                # In the order of the forward walk.
                at = i + o_r
                p_states = states + (slot + i) * H * M * 2
                o_s = o_r * (H * M * 2) + o_h * (2 * M) + i_m + o_m[None, None, :]
                if ADJOINT:
                    p_states = states + (slot + chunks - 1 - i) * H * M * 2
                    o_s -= 2 * o_r * (H * M * 2)
                m_s = (o_r < R - 1) & (at < chunks) & m_k
                tl.store(p_states + o_s, x_re, mask=m_s)
                tl.store(p_states + o_s + M, x_im, mask=m_s)

            o_g = tl.reshape(o_h, [BH, 1]) * (4 * M) + i_m + o_m[None, :]
            g_re, g_im = stretch(h_re, h_im, steps, o_g, m_hm, SIGN, M)
            e_re, e_im = product(last(a_re, o_r, R), last(a_im, o_r, R), h_re, h_im)
            g_re = tl.where(whole, g_re, e_re) + last(s_re, o_r, R)
            g_im = tl.where(whole, g_im, e_im) + last(s_im, o_r, R)
            tl.debug_barrier()  # everyone has read what is replaced now
            store_pair(p_carry, o_hm + i_m, m_hm, g_re.to(ACC), g_im.to(ACC))

            if OUTPUT:
                o_k = o_h * SIZE + READ + o_t[None, None, :] * (2 * M) + i_m + o_m[None, :, None]
                m_k = m_h & m_m[None, :, None]
                b_y = tl.dot(x_re, plane(tables, o_k, m_k, 0, M), b_y, input_precision=PRECISION)
                b_y = tl.dot(x_im, plane(tables, o_k, m_k, 1, M), b_y, input_precision=PRECISION)
        tl.debug_barrier()
        if OUTPUT:
            m_y = (o_t[None, None, :] < tokens) & (o_r < R - 1) & m_h
            o_y = (begin + o_t[None, None, :]) * STEP + o_h
            lag = o_t[None, None, :] - o_t[None, :, None]
            b_lags = tl.load(tables + o_h * SIZE + lag, mask=(lag >= 0) & m_h, other=0.0)
            b_u = tl.load(p_u + o_y, mask=m_y, other=0.0).to(ACC)
            b_y = tl.dot(b_u, b_lags, b_y, input_precision=PRECISION)
            tl.store(y + row * H + o_y, b_y.to(y.dtype.element_ty), mask=m_y)
    if OUTPUT and SPLIT:
        for i_m in tl.range(0, M, BM):
            m_hm = m_c & (i_m + o_m < M)[None, :]
            h_re, h_im = load_pair(p_carry, o_hm + i_m, m_hm)
            m_hT = m_hm & (0 * o_hm + end == chunks)
            store_pair(hT + i_n * H * M * 2, o_hm + i_m, m_hT, h_re, h_im)


@triton.jit
def stretch(h_re, h_im, table, o, m, SIGN: tl.constexpr, M: tl.constexpr):
    """A state times numbers of a table, in float64: rounding these would add up over time."""
    x_re, x_im = plane(table, o, m, 0, M), SIGN * plane(table, o, m, 1, M)
    return product(x_re, x_im, h_re.to(tl.float64), h_im.to(tl.float64))


@triton.jit
def last(x, o_r, R: tl.constexpr):
    """The last row [BH, BM] of x [BH, R, BM]."""
    return tl.sum(tl.where(o_r == R - 1, x, 0.0), axis=1)
