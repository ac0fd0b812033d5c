# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel that walks through sequences; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..._core.kernels_chunks import bounds, first_slot
from .kernels_tables import plane, product, then


@triton.jit(do_not_specialize=["T"])
def walk(
    u, lags, write, read, powers, span, h0, cu_seqlens,
    y, hT, states,
    T,
    H: tl.constexpr, M: tl.constexpr,
    PACKED: tl.constexpr, BACKWARDS: tl.constexpr, ADJOINT: tl.constexpr,
    INITIAL: tl.constexpr, KEEP: tl.constexpr,
    BT: tl.constexpr, R: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Y = U Lags + X Read, where X, the states before chunks, is a scan of V Write.

    V is U with each chunk's tokens from its last to its first. Rows are R boundaries of chunks:
    the first stands for the state that is carried, the last is carried on. What is carried
    passes through hT: threads read what others wrote only behind a barrier.

    The adjoint walks the other way over the same chunks, so that its first one may be short.
    """
    ACC: tl.constexpr = hT.dtype.element_ty
    STEP: tl.constexpr = -H if BACKWARDS else H
    SIGN: tl.constexpr = -1 if ADJOINT else 1  # the adjoint multiplies by conjugates
    blocks = tl.cdiv(H, BH)
    i_n = (tl.program_id(0) // blocks).to(tl.int64)
    o_h = tl.program_id(0) % blocks * BH + tl.arange(0, BH)[:, None, None]
    m_h = o_h < H
    o_r = tl.arange(0, R)[None, :, None]
    o_t = tl.arange(0, BT)
    o_m = tl.arange(0, BM)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    slot = first_slot(cu_seqlens, i_n, T, BT, PACKED)
    chunks = (length + BT - 1) // BT
    short = 0
    if ADJOINT:
        short = (chunks * BT - length).to(tl.int32)  # what the first chunk lacks
    p_hT = hT + i_n * H * M * 2
    o_hm = (tl.reshape(o_h, [BH, 1]) * M + o_m[None, :]) * 2  # [BH, BM]
    m_c = tl.reshape(m_h, [BH, 1])

    for i_m in tl.range(0, M, BM):
        m_hm = m_c & (i_m + o_m < M)[None, :]
        for part in tl.static_range(2):
            x = tl.zeros([BH, BM], ACC)
            if INITIAL:
                p_h0 = h0 + i_n * H * M * 2
                x += tl.load(p_h0 + o_hm + 2 * i_m + part, mask=m_hm, other=0.0).to(ACC)
            tl.store(p_hT + o_hm + 2 * i_m + part, x, mask=m_hm)
    tl.debug_barrier()  # other threads wrote what this one reads

    for i in tl.range(0, tl.maximum(chunks, 1), R - 1, disable_licm=True):
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
            o_k = (o_h * BT + o_t[None, :, None]) * (2 * M) + i_m + o_m[None, None, :]
            m_k = m_h & m_m[None, None, :]
            s_re = tl.dot(b_v, plane(write, o_k, m_k, 0, M), input_precision=PRECISION)
            s_im = tl.dot(b_v, plane(write, o_k, m_k, 1, M), input_precision=PRECISION)
            o_p = (o_h * (BT + 1) + before) * (2 * M) + i_m + o_m[None, None, :]
            a_re = plane(powers, o_p, m_k, 0, M)
            a_im = SIGN * plane(powers, o_p, m_k, 1, M)
            a_re, a_im, s_re, s_im = tl.associative_scan((a_re, a_im, s_re, s_im), 1, then)

            o_c = o_hm + 2 * i_m
            m_hm = m_c & m_m[None, :]
            h_re = tl.load(p_hT + o_c, mask=m_hm, other=0.0)
            h_im = tl.load(p_hT + o_c + 1, mask=m_hm, other=0.0)
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

            # The multiplier of whole groups in two numbers: rounding it would add up over time.
            o_g = tl.reshape(o_h, [BH, 1]) * (4 * M) + i_m + o_m[None, :]
            g_re, g_im = plane(span, o_g, m_hm, 0, M), SIGN * plane(span, o_g, m_hm, 1, M)
            e_re, e_im = plane(span, o_g, m_hm, 2, M), SIGN * plane(span, o_g, m_hm, 3, M)
            g_re = tl.where(whole, g_re, last(a_re, o_r, R))
            g_im = tl.where(whole, g_im, last(a_im, o_r, R))
            e_re, e_im = product(e_re, e_im, h_re, h_im)
            g_re, g_im = product(g_re, g_im, h_re, h_im)
            g_re += tl.where(whole, e_re, 0.0) + last(s_re, o_r, R)
            g_im += tl.where(whole, e_im, 0.0) + last(s_im, o_r, R)
            tl.debug_barrier()  # everyone has read what is replaced now
            tl.store(p_hT + o_c, g_re, mask=m_hm)
            tl.store(p_hT + o_c + 1, g_im, mask=m_hm)

            o_k = (o_h * BT + o_t[None, None, :]) * (2 * M) + i_m + o_m[None, :, None]
            m_k = m_h & m_m[None, :, None]
            b_y = tl.dot(x_re, plane(read, o_k, m_k, 0, M), b_y, input_precision=PRECISION)
            b_y = tl.dot(x_im, plane(read, o_k, m_k, 1, M), b_y, input_precision=PRECISION)
        tl.debug_barrier()
        m_y = (o_t[None, None, :] < tokens) & (o_r < R - 1) & m_h
        o_y = (begin + o_t[None, None, :]) * STEP + o_h
        lag = o_t[None, None, :] - o_t[None, :, None]
        b_lags = tl.load(lags + o_h * BT + lag, mask=(lag >= 0) & m_h, other=0.0)
        b_u = tl.load(p_u + o_y, mask=m_y, other=0.0).to(ACC)
        b_y = tl.dot(b_u, b_lags, b_y, input_precision=PRECISION)
        tl.store(y + row * H + o_y, b_y.to(y.dtype.element_ty), mask=m_y)


@triton.jit
def last(x, o_r, R: tl.constexpr):
    """The last row [BH, BM] of x [BH, R, BM]."""
    return tl.sum(tl.where(o_r == R - 1, x, 0.0), axis=1)
