# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the global part's memory: sums over pieces of a sequence, then over pieces."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..._core.kernels_chunks import bounds, first_slot, inside, locate, row_block, store_rows

RUNTIME = ["NS", "T", "SPAN"]  # lengths never choose the code


@triton.jit(do_not_specialize=RUNTIME)
def memory_pieces(
    heads, x, cu_seqlens,
    pieces,
    NS, T, SPAN,
    HEAD: tl.constexpr, S: tl.constexpr, E: tl.constexpr,
    BQ: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """L' X of SPAN frames, L being one of the heads; a [BS, BE] tile of [S, 2E]. Unused: zeros."""
    i_slot = tl.program_id(0).to(tl.int64)
    i_s = tl.program_id(1) * BS
    i_e = tl.program_id(2) * BE
    i_n, i_c = locate(cu_seqlens, i_slot, NS, T, SPAN, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    left = tl.minimum(length - i_c * SPAN, SPAN).to(tl.int32)
    p_l = heads + (start + i_c * SPAN) * 4 * S + HEAD * S
    p_x = x + (start + i_c * SPAN) * 2 * E
    total = tl.zeros([BS, BE], dtype=ACC)
    for i in tl.range(0, left, BQ, disable_licm=True):
        o_q = tl.arange(0, BQ)
        m_q = i + o_q < left
        b_l = row_block(p_l, o_q * (4 * S), m_q, i_s, S, BS).to(DOT)
        b_x = row_block(p_x, o_q * (2 * E), m_q, i_e, 2 * E, BE).to(DOT)
        total = tl.dot(tl.trans(b_l), b_x, total, input_precision=PRECISION)
        p_l += BQ * 4 * S
        p_x += BQ * 2 * E
    o_s = i_s + tl.arange(0, BS)
    p_out = pieces + i_slot * S * 2 * E
    store_rows(p_out, o_s * (2 * E), inside(o_s, S, BS), i_e, total, 2 * E, BE)


@triton.jit(do_not_specialize=RUNTIME)
def join_pieces(
    pieces, cu_seqlens,
    memory,
    NS, T, SPAN,
    SIZE: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr,
    PACKED: tl.constexpr, CAUSAL: tl.constexpr, PER_GROUP: tl.constexpr, REVERSE: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The memory of a sequence, or, causal, in the place of each piece that of its group.

    With REVERSE the gradient of every piece, from those of the memories after it.
    """
    i_n = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = o < SIZE
    _, length = bounds(cu_seqlens, i_n, T, PACKED)
    slot = first_slot(cu_seqlens, i_n, T, SPAN, PACKED)
    count = ((length + SPAN - 1) // SPAN).to(tl.int32)
    total = tl.zeros([BLOCK], dtype=ACC)
    for i in tl.range(0, count):
        i_c = i
        if REVERSE:
            i_c = count - 1 - i
        p = pieces + (slot + i_c) * SIZE + o
        piece = tl.load(p, mask=mask, other=0.0)
        if CAUSAL:
            frames = G + tl.zeros([1], dtype=ACC)
            if not PER_GROUP:
                frames *= tl.maximum(i_c, 1)
            if REVERSE:
                tl.store(p, total, mask=mask)
                total += piece / frames
            else:
                tl.store(p, total / frames, mask=mask)
                total += piece
        else:
            total += piece
    if not CAUSAL:
        total /= tl.maximum(length, 1).to(ACC)
        tl.store(memory + i_n * SIZE + o, total, mask=mask)
