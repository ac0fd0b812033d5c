# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel that sums the gradients of tables; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..._core.kernels_chunks import bounds, first_slot
from ..kernels_pairs import plane, product, write_planes


@triton.jit
def sequence_of(cu_seqlens, slot, NS, T, bits, BT: tl.constexpr, PACKED: tl.constexpr):
    """The sequence that owns each slot of a tile: bisection, NS being below 2^bits."""
    i_n = slot * 0
    end = i_n + NS - 1
    for _ in tl.range(0, bits):
        middle = (i_n + end + 1) // 2
        found = first_slot(cu_seqlens, middle, T, BT, PACKED) <= slot
        i_n = tl.where(found, middle, i_n)
        end = tl.where(found, end, middle - 1)
    return i_n


@triton.jit
def chunks_at(
    slot, slots, cu_seqlens, NS, T, bits,
    H: tl.constexpr, PACKED: tl.constexpr, BACKWARDS: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Of the chunk in each slot of a tile: where its first token lies, and how many it has."""
    i_n = sequence_of(cu_seqlens, slot, NS, T, bits, BT, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    done = (slot - first_slot(cu_seqlens, i_n, T, BT, PACKED)) * BT
    row = start + done
    if BACKWARDS:
        row = start + length - 1 - done
    tokens = tl.where((slot < slots) & (done < length), tl.minimum(length - done, BT), 0)
    return row * H, tokens.to(tl.int32)


@triton.jit(do_not_specialize=["NS", "T", "slots", "per", "bits"])
def table_gradients(
    u, dy, states, adjoints, tables, cu_seqlens,
    parts,
    NS, T, slots, per, bits,
    H: tl.constexpr, M: tl.constexpr,
    PACKED: tl.constexpr, BACKWARDS: tl.constexpr,
    BT: tl.constexpr, R: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """U' dY, and for BM modes V' G, dY' X and what a has in the products of a^tokens X with G.

    X and G are the states before chunks and the adjoints after them. A program takes BH channels
    and `per` slots, a multiple of R, and either U' dY or a block of modes. It writes to `parts`
    [.., H, PART], where these lie one after the other: [BT,BT], [BT,2,M], [BT,2,M] and [2,M].
    """
    POWERS: tl.constexpr = BT * (1 + 4 * M)
    SIZE: tl.constexpr = POWERS + (BT + 1) * 2 * M
    PART: tl.constexpr = BT * (BT + 4 * M) + 2 * M
    ACC: tl.constexpr = states.dtype.element_ty
    STEP: tl.constexpr = -H if BACKWARDS else H
    blocks = tl.cdiv(H, BH)
    i_p = (tl.program_id(0) // blocks).to(tl.int64)
    o_h = tl.program_id(0) % blocks * BH + tl.arange(0, BH)[:, None, None]
    m_h = o_h < H
    o_j = tl.arange(0, BT)[None, :, None]
    o_t = tl.arange(0, BT)[None, None, :]
    o_r = tl.arange(0, R)
    o_m = (tl.program_id(1) - 1) * BM + tl.arange(0, BM)[None, None, :]
    m_m = m_h & (o_m < M)
    last = tl.minimum(slots - i_p * per, per)
    o_part = (i_p * H + o_h) * PART

    if tl.program_id(1) == 0:
        lag = tl.zeros([BH, BT, BT], ACC)
        for i in tl.range(0, last, R, disable_licm=True):
            slot = i_p * per + i + o_r
            o_u, tokens = chunks_at(slot, slots, cu_seqlens, NS, T, bits, H, PACKED, BACKWARDS, BT)
            m_u = (o_j < tokens[None, None, :]) & m_h
            b_u = tl.load(u + o_u[None, None, :] + o_h + o_j * STEP, mask=m_u, other=0.0)
            m_y = (o_t < tokens[None, :, None]) & m_h
            b_dy = tl.load(dy + o_u[None, :, None] + o_h + o_t * STEP, mask=m_y, other=0.0)
            lag = tl.dot(b_u.to(ACC), b_dy.to(ACC), lag, input_precision=PRECISION)
        tl.store(parts + (o_part + o_j * BT + o_t), lag, mask=m_h & (o_j + o_t >= 0))
    else:
        w_re = tl.zeros([BH, BT, BM], ACC)
        w_im, r_re, r_im = w_re, w_re, w_re
        a_re = tl.zeros([BH, BM], ACC)
        a_im = a_re
        for i in tl.range(0, last, R, disable_licm=True):
            slot = i_p * per + i + o_r
            o_u, tokens = chunks_at(slot, slots, cu_seqlens, NS, T, bits, H, PACKED, BACKWARDS, BT)
            m_s = (tokens > 0)[None, :, None] & m_m
            o_s = (slot[None, :, None] * H + o_h) * (2 * M) + o_m
            x_re, x_im = plane(states, o_s, m_s, 0, M), plane(states, o_s, m_s, 1, M)
            g_re, g_im = plane(adjoints, o_s, m_s, 0, M), plane(adjoints, o_s, m_s, 1, M)
            # The gradient of a in a^n x is n (a^(n-1) x)* g.
            n = tokens[None, :, None]
            o_p = o_h * SIZE + POWERS + (n - 1) * (2 * M) + o_m
            p_re, p_im = plane(tables, o_p, m_s, 0, M), plane(tables, o_p, m_s, 1, M)
            p_re, p_im = product(x_re, x_im, n * p_re, n * p_im)
            p_re, p_im = product(g_re, g_im, p_re, -p_im)
            a_re += tl.sum(p_re, axis=1)
            a_im += tl.sum(p_im, axis=1)
            # Rows are tokens, columns chunks.
            m_u = (o_j < tokens[None, None, :]) & m_h
            p_dy = dy + o_u[None, None, :] + o_h
            b_r = tl.load(p_dy + o_j * STEP, mask=m_u, other=0.0).to(ACC)
            r_re = tl.dot(b_r, x_re, r_re, input_precision=PRECISION)
            r_im = tl.dot(b_r, x_im, r_im, input_precision=PRECISION)
            p_v = u + o_u[None, None, :] + o_h
            o_v = (tokens[None, None, :] - 1 - o_j) * STEP
            b_v = tl.load(p_v + o_v, mask=m_u, other=0.0).to(ACC)
            w_re = tl.dot(b_v, g_re, w_re, input_precision=PRECISION)
            w_im = tl.dot(b_v, g_im, w_im, input_precision=PRECISION)
        o_w = o_part + BT * BT + o_j * (2 * M) + o_m
        m_w = m_m & (o_j < BT)
        write_planes(parts, o_w, m_w, w_re, w_im, M)
        write_planes(parts, o_w + BT * 2 * M, m_w, r_re, r_im, M)
        o_a = tl.reshape(o_part + BT * (BT + 4 * M) + o_m, [BH, BM])
        write_planes(parts, o_a, tl.reshape(m_m, [BH, BM]), a_re, a_im, M)
