# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the chunked delta rule, forward; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .._core.kernels_chunks import bounds, first_slot, inside, locate, row_block

NORM_EPS = tl.constexpr(1e-6)
SUB = tl.constexpr(16)  # rows of a diagonal block of the triangular solve

RUNTIME = ["scale", "N", "T"]  # lengths and factors never choose the code
SWEEP = [*RUNTIME, "segment"]


@triton.jit
def segment_at(
    cu_seqlens, i_s, N, T, segment,
    NH: tl.constexpr, C: tl.constexpr, PACKED: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """What a sweep walks through: all of sequence `i_s`, or with SPLIT segment `i_s` of them all.

    Returns the sequence, the first token, the number of tokens, the slot of the first chunk, the
    segment's place in its sequence, and how many tokens of the sequence follow it. A sequence
    without tokens has one segment; where a slot is unused, fewer than none follow.
    """
    if SPLIT:
        span = segment * (C // NH)
        i_n, i_g = locate(cu_seqlens, i_s, N, T, span, PACKED)
        start, left = bounds(cu_seqlens, i_n, T, PACKED)
        slot = first_slot(cu_seqlens, i_n, T, C // NH, PACKED) + i_g * segment
        start += i_g * span
        left -= i_g * span
        length = tl.minimum(left, span)
        after = tl.where((left <= 0) & (i_g > 0), -1, left - length)
    else:
        i_n = i_s
        i_g = i_s * 0
        start, length = bounds(cu_seqlens, i_n, T, PACKED)
        slot = first_slot(cu_seqlens, i_n, T, C // NH, PACKED)
        after = length * 0
    return i_n, start, length, slot, i_g, after


@triton.jit
def chunk_at(start, length, i_c, NH: tl.constexpr, C: tl.constexpr, Q: tl.constexpr):
    """A chunk's first token, and which of its C rows and Q tokens lie inside its sequence."""
    first = (start * 0 + i_c) * (C // NH)  # 64 bits, also where i_c counts in 32
    left = tl.minimum(length - first, C // NH).to(tl.int32)
    return start + first, tl.arange(0, C) < left * NH, tl.arange(0, Q) < left


@triton.jit
def state_block(i_k, o_v, m_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr):
    """Offsets and mask of a [BK, BV] block of a state."""
    o_k = i_k + tl.arange(0, BK)
    return o_k[:, None] * V + o_v[None, :], inside(o_k, K, BK)[:, None] & m_v[None, :]


@triton.jit
def inverse_of_diagonal(a, beta, C: tl.constexpr, ACC: tl.constexpr):
    """The SUB x SUB diagonal blocks of a diag(beta), `a` strictly lower, and their (I + ...)^-1."""
    NB: tl.constexpr = C // SUB
    o_b = tl.arange(0, NB)
    o_r = tl.arange(0, SUB)[None, :, None]
    o_c = tl.arange(0, SUB)[None, None, :]
    on_diagonal = o_b[:, None, None, None] == o_b[None, None, :, None]
    blocks = tl.sum(tl.where(on_diagonal, tl.reshape(a, [NB, SUB, NB, SUB]), 0.0), axis=2)
    blocks *= tl.reshape(beta, [NB, 1, SUB])
    d = tl.where((o_r == o_c) & (o_b[:, None, None] >= 0), 1.0, 0.0).to(ACC)
    for j in range(SUB - 1):
        column = tl.sum(tl.where(o_c == j, blocks, 0.0), axis=2)  # [NB, SUB]
        row = tl.sum(tl.where(o_r == j, d, 0.0), axis=1)  # [NB, SUB]
        d -= column[:, :, None] * row[:, None, :]
    return blocks, d


@triton.jit
def solve(a, beta, C: tl.constexpr, ACC: tl.constexpr, EXACT: tl.constexpr):
    """(I + a diag(beta))^-1 a for strictly lower `a`: forward substitution by row blocks."""
    NB: tl.constexpr = C // SUB
    o_b = tl.arange(0, NB)[:, None, None]
    blocks, d = inverse_of_diagonal(a, beta, C, ACC)
    rows = tl.reshape(a, [NB, SUB, C])
    m = tl.zeros([NB, SUB, C], dtype=ACC)
    for i in tl.static_range(NB):
        x = tl.sum(tl.where(o_b == i, rows, 0.0), axis=0)  # [SUB, C]
        if i > 0:
            x -= tl.dot(x * beta[None, :], tl.reshape(m, [C, C]), input_precision=EXACT)
        d_i = tl.sum(tl.where(o_b == i, d, 0.0), axis=0)  # [SUB, SUB]
        l_i = tl.sum(tl.where(o_b == i, blocks, 0.0), axis=0)
        m_i = tl.dot(d_i, x, input_precision=EXACT)
        # errors of d_i add up over a row: what is left of the equation goes through it again
        x -= m_i + tl.dot(l_i, m_i, input_precision=EXACT)
        m_i += tl.dot(d_i, x, input_precision=EXACT)
        m = tl.where(o_b == i, m_i[None, :, :], m)
    return tl.reshape(m, [C, C])


@triton.jit(do_not_specialize=RUNTIME)
def chunk_matrices(
    q, k, beta, decay, cu_seqlens,
    mix, attention, factors,
    scale, N, T,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, NH: tl.constexpr,
    C: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr,
    PACKED: tl.constexpr, DECAY: tl.constexpr, NORMALIZE: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """M = G * (I + A diag(beta))^-1 A with A = tril(KK', -1);  P = scale QK' * G;  row factors."""
    i_s = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    i_n, i_c = locate(cu_seqlens, i_s, N, T, C // NH, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    if i_c * (C // NH) >= length:
        return
    token, m_r, m_q = chunk_at(start, length, i_c, NH, C, Q)
    row = token * NH
    o_c = tl.arange(0, C)
    o_q = tl.arange(0, Q)
    o_hk = i_h // (HV // H)

    kk = tl.zeros([C, C], dtype=ACC)
    qk = tl.zeros([Q, C], dtype=ACC)
    k_square = tl.zeros([C], dtype=ACC)
    q_square = tl.zeros([Q], dtype=ACC)
    p_k = k + (row * H + o_hk) * K
    p_q = q + (token * H + o_hk) * K
    for i_k in range(0, K, BK):
        b_k = row_block(p_k, o_c * (H * K), m_r, i_k, K, BK).to(DOT)
        b_q = row_block(p_q, o_q * (H * K), m_q, i_k, K, BK).to(DOT)
        kk = tl.dot(b_k, tl.trans(b_k), kk, input_precision=PRECISION)
        qk = tl.dot(b_q, tl.trans(b_k), qk, input_precision=PRECISION)
        if NORMALIZE:
            k_square += tl.sum(b_k.to(ACC) * b_k.to(ACC), axis=1)
            q_square += tl.sum(b_q.to(ACC) * b_q.to(ACC), axis=1)
    if NORMALIZE:
        rk = 1.0 / tl.sqrt(k_square + NORM_EPS)
        rq = 1.0 / tl.sqrt(q_square + NORM_EPS)
    else:
        rk = k_square + 1.0
        rq = q_square + 1.0

    lower = o_c[:, None] > o_c[None, :]
    seen = (o_q * NH + (NH - 1))[:, None] >= o_c[None, :]  # a query comes after its token's rows
    a = tl.where(lower, kk * rk[:, None] * rk[None, :], 0.0)
    p = tl.where(seen, qk * (scale * rq)[:, None] * rk[None, :], 0.0)
    if DECAY:
        p_a = decay + token * HV + i_h
        m_a = m_r & (o_c % NH == 0)  # a token decays once, before its first row
        alpha = tl.load(p_a + o_c // NH * HV, mask=m_a, other=1.0).to(ACC)
        gates = tl.cumprod(tl.where(lower, alpha[:, None], 1.0), axis=0)  # [C, C], a product each
        head = tl.cumprod(alpha, axis=0)
        tail = tl.sum(tl.where((o_c == C - 1)[:, None], gates, 0.0), axis=0)
        a *= gates
        if NH == 1:
            p *= gates
            head_q = head
        else:
            alpha = tl.load(p_a + o_q * HV, mask=m_q, other=1.0).to(ACC)
            later = o_q[:, None] > (o_c // NH)[None, :]
            p *= tl.cumprod(tl.where(later, alpha[:, None], 1.0), axis=0)
            head_q = tl.cumprod(alpha, axis=0)
    else:
        head = tl.full([C], 1.0, dtype=ACC)
        tail = tl.full([C], 1.0, dtype=ACC)
        head_q = tl.full([Q], 1.0, dtype=ACC)

    i_sh = i_s * HV + i_h
    o_qc = o_q[:, None] * C + o_c[None, :]
    tl.store(attention + i_sh * Q * C + o_qc, p.to(attention.dtype.element_ty))
    p_f = factors + i_sh * (3 * C + 2 * Q)
    tl.store(p_f + o_c, head)
    tl.store(p_f + C + o_c, tail)
    tl.store(p_f + 2 * C + o_c, rk)
    tl.store(p_f + 3 * C + o_q, rq)
    tl.store(p_f + 3 * C + Q + o_q, head_q)
    b_beta = tl.load(beta + row * HV + i_h + o_c * HV, mask=m_r, other=0.0).to(ACC)
    m = solve(a, b_beta, C, ACC, EXACT)
    o_cc = o_c[:, None] * C + o_c[None, :]
    tl.store(mix + i_sh * C * C + o_cc, m.to(mix.dtype.element_ty))


@triton.jit(do_not_specialize=SWEEP)
def forward_sweep(
    q, k, v, beta, h0, mix, attention, factors, cu_seqlens,
    o, hT, states, errors,
    scale, N, T, segment,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, NH: tl.constexpr,
    C: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PACKED: tl.constexpr, INITIAL: tl.constexpr, OUTPUT: tl.constexpr,
    SPLIT: tl.constexpr, MAP: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """R = V - g KS;  E = R - M(beta R);  U = beta E;  O = scale g QS + PU;  S = g_C S + (G_C K)'U.

    With OUTPUT it writes o and hT; without, what the backward pass needs: S of each chunk and E.
    With MAP it writes what a segment does to any state, S -> M S + b: b into hT and, from more
    blocks of columns that start at the identity and have no values, M into `states`.
    """
    NB: tl.constexpr = (K + BK - 1) // BK
    i_nh = tl.program_id(0).to(tl.int64)
    i_h = i_nh % HV
    i_n, start, length, slot, _, after = segment_at(
        cu_seqlens, i_nh // HV, N, T, segment, NH, C, PACKED, SPLIT
    )
    if after < 0:
        return
    o_c = tl.arange(0, C)
    o_q = tl.arange(0, Q)
    o_v = tl.program_id(1) * BV + tl.arange(0, BV)
    if MAP:
        m_v = o_v < V
        o_m = o_v - (V + BV - 1) // BV * BV
        m_m = (o_m >= 0) & (o_m < K)
    else:
        m_v = inside(o_v, V, BV)
    o_cc = o_c[:, None] * C + o_c[None, :]
    o_qc = o_q[:, None] * C + o_c[None, :]
    o_cv = o_c[:, None] * (HV * V) + o_v[None, :]
    o_hk = i_h // (HV // H)

    s = ()
    for b in tl.static_range(NB):
        s_b = tl.zeros([BK, BV], dtype=ACC)
        if INITIAL:
            o_kv, m_kv = state_block(b * BK, o_v, m_v, K, V, BK)
            s_b += tl.load(h0 + i_nh * K * V + o_kv, mask=m_kv, other=0.0).to(ACC)
        if MAP:
            o_k = b * BK + tl.arange(0, BK)
            s_b += tl.where(o_k[:, None] == o_m[None, :], 1.0, 0.0)
        s = s + (s_b,)  # noqa: RUF005 - no unpacking in kernels
    for i_c in tl.range(0, tl.cdiv(length, C // NH).to(tl.int32), disable_licm=True):
        token, m_r, m_q = chunk_at(start, length, i_c, NH, C, Q)
        row = token * NH
        i_sh = (slot + i_c) * HV + i_h
        p_f = factors + i_sh * (3 * C + 2 * Q)
        p_k = k + (row * H + o_hk) * K
        p_q = q + (token * H + o_hk) * K
        k_s = tl.zeros([C, BV], dtype=ACC)
        q_s = tl.zeros([Q, BV], dtype=ACC)
        for b in tl.static_range(NB):
            if not OUTPUT and not MAP:
                o_kv, m_kv = state_block(b * BK, o_v, m_v, K, V, BK)
                p_s = states + i_sh * K * V + o_kv
                tl.store(p_s, s[b].to(states.dtype.element_ty), mask=m_kv)
            s_dot = s[b].to(DOT)
            b_k = row_block(p_k, o_c * (H * K), m_r, b * BK, K, BK).to(DOT)
            k_s = tl.dot(b_k, s_dot, k_s, input_precision=PRECISION)
            if OUTPUT:
                b_q = row_block(p_q, o_q * (H * K), m_q, b * BK, K, BK).to(DOT)
                q_s = tl.dot(b_q, s_dot, q_s, input_precision=PRECISION)
        p_v = v + (row * HV + i_h) * V + o_cv
        b_v = tl.load(p_v, mask=m_r[:, None] & m_v[None, :], other=0.0).to(ACC)  # [C, BV]
        b_m = tl.load(mix + i_sh * C * C + o_cc).to(ACC)
        b_beta = tl.load(beta + row * HV + i_h + o_c * HV, mask=m_r, other=0.0).to(ACC)
        head = tl.load(p_f + o_c).to(ACC)
        tail = tl.load(p_f + C + o_c).to(ACC)
        rk = tl.load(p_f + 2 * C + o_c).to(ACC)
        r = b_v - (head * rk)[:, None] * k_s
        e = r - tl.dot(b_m, b_beta[:, None] * r, input_precision=EXACT)
        u = b_beta[:, None] * e
        if OUTPUT:
            b_p = tl.load(attention + i_sh * Q * C + o_qc).to(DOT)
            rq = tl.load(p_f + 3 * C + o_q).to(ACC)
            head_q = tl.load(p_f + 3 * C + Q + o_q).to(ACC)
            out = (scale * head_q * rq)[:, None] * q_s
            out += tl.dot(b_p, u.to(DOT), input_precision=PRECISION)
            p_o = o + (token * HV + i_h) * V + (o_q[:, None] * (HV * V) + o_v[None, :])
            tl.store(p_o, out.to(o.dtype.element_ty), mask=m_q[:, None] & m_v[None, :])
        elif not MAP:
            p_e = errors + (row * HV + i_h) * V + o_cv
            tl.store(p_e, e.to(errors.dtype.element_ty), mask=m_r[:, None] & m_v[None, :])
        whole = tl.load(p_f + C - 1).to(ACC)  # decay over the whole chunk
        write = ((tail * rk)[:, None] * u).to(DOT)
        s_after = ()
        for b in tl.static_range(NB):
            b_k = row_block(p_k, o_c * (H * K), m_r, b * BK, K, BK).to(DOT)
            new = tl.dot(tl.trans(b_k), write, input_precision=PRECISION)
            s_after = s_after + (whole * s[b] + new,)  # noqa: RUF005
        s = s_after
    if MAP or OUTPUT:
        p_t = hT + i_nh * K * V
        if OUTPUT and SPLIT:  # the last segment writes the state of its sequence
            p_t = hT + (i_n * HV + i_h) * K * V
            m_v &= after + o_v * 0 == 0
        for b in tl.static_range(NB):
            o_kv, m_kv = state_block(b * BK, o_v, m_v, K, V, BK)
            tl.store(p_t + o_kv, s[b].to(hT.dtype.element_ty), mask=m_kv)
            if MAP:
                o_kv, m_kv = state_block(b * BK, o_m, m_m, K, K, BK)
                p_m = states + i_nh * K * K + o_kv
                tl.store(p_m, s[b].to(states.dtype.element_ty), mask=m_kv)
