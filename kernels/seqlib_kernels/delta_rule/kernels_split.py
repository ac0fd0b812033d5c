# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel that hands states from segment to segment of split sequences."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .._core.kernels_chunks import bounds, first_slot, inside
from .kernels_fwd import state_block


@triton.jit(do_not_specialize=["N", "T", "segment"])
def join_segments(
    ends, maps, h0, cu_seqlens, starts,
    N, T, segment,
    HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, NH: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PACKED: tl.constexpr, INITIAL: tl.constexpr, REVERSE: tl.constexpr,
    ACC: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """starts_0 = h0;  starts_g+1 = M_g starts_g + ends_g, or from the last segment with M_g'.

    The states stay in memory: held as tiles, dots of float32 would spill.
    """
    i_nh = tl.program_id(0).to(tl.int64)
    i_n = i_nh // HV
    i_h = i_nh % HV
    span = segment * (C // NH)
    _, length = bounds(cu_seqlens, i_n, T, PACKED)
    slot = first_slot(cu_seqlens, i_n, T, span, PACKED)
    segments = tl.maximum(tl.cdiv(length, span), 1).to(tl.int32)
    o_k = tl.arange(0, BK)
    o_v = tl.program_id(1) * BV + tl.arange(0, BV)
    m_v = inside(o_v, V, BV)

    i_g = segments - 1 if REVERSE else segments * 0
    p_s = starts + ((slot + i_g) * HV + i_h) * K * V
    for i_k in tl.range(0, K, BK, disable_licm=True):
        o_kv, m_kv = state_block(i_k, o_v, m_v, K, V, BK)
        s = tl.zeros([BK, BV], dtype=ACC)
        if INITIAL:
            s += tl.load(h0 + i_nh * K * V + o_kv, mask=m_kv, other=0.0).to(ACC)
        tl.store(p_s + o_kv, s, mask=m_kv)
    for i in tl.range(1, segments, disable_licm=True):
        tl.debug_barrier()  # other threads wrote what this one reads
        i_g = segments - i if REVERSE else i - 1
        i_sh = (slot + i_g) * HV + i_h
        i_next = i_sh - HV if REVERSE else i_sh + HV
        for i_k in tl.range(0, K, BK, disable_licm=True):
            o_kv, m_kv = state_block(i_k, o_v, m_v, K, V, BK)
            s = tl.load(ends + i_sh * K * V + o_kv, mask=m_kv, other=0.0).to(ACC)
            for i_m in tl.range(0, K, BK, disable_licm=True):
                o_mv, m_mv = state_block(i_m, o_v, m_v, K, V, BK)
                b_s = tl.load(starts + i_sh * K * V + o_mv, mask=m_mv, other=0.0).to(ACC)
                row, column = (i_m, i_k) if REVERSE else (i_k, i_m)
                o_kk, m_kk = state_block(row, column + o_k, inside(column + o_k, K, BK), K, K, BK)
                b_m = tl.load(maps + i_sh * K * K + o_kk, mask=m_kk, other=0.0).to(ACC)
                if REVERSE:
                    b_m = tl.trans(b_m)
                s = tl.dot(b_m, b_s, s, input_precision=EXACT)
            tl.store(starts + i_next * K * V + o_kv, s, mask=m_kv)
