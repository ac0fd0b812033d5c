# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the chunked delta rule's gradient; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .kernels_fwd import RUNTIME, bounds, first_slot, inside, locate, real_rows, rows_of


@triton.jit(do_not_specialize=RUNTIME)
def backward_sweep(
    q, k, beta, do, dhT, mix, attention, factors, cu_seqlens,
    dh0, dstates, y,
    scale, N, T,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, NH: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PACKED: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dU = P'dO + G_C K dS;  Y = dU - M'(beta dU);  dS = g_C dS + scale (gQ)'dO - (gK)'(beta Y).

    Writes dS after each chunk and Y, the gradient of the updates U.
    """
    i_nh = tl.program_id(0).to(tl.int64)
    i_n = i_nh // HV
    i_h = i_nh % HV
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    slot = first_slot(cu_seqlens, i_n, T, NH, C, PACKED)
    o_c = tl.arange(0, C)
    o_k = tl.arange(0, BK)
    o_v = tl.program_id(1) * BV + tl.arange(0, BV)
    m_k = inside(o_k, K, BK)
    m_v = inside(o_v, V, BV)
    m_kv = m_k[:, None] & m_v[None, :]
    o_kv = o_k[:, None] * V + o_v[None, :]
    o_cc = o_c[:, None] * C + o_c[None, :]
    o_ck = o_c[:, None] * (H * K) + o_k[None, :]
    o_cv = o_c[:, None] * (HV * V) + o_v[None, :]
    o_hk = i_h // (HV // H)

    ds = tl.load(dhT + i_nh * K * V + o_kv, mask=m_kv, other=0.0).to(ACC)
    chunks = ((length * NH + C - 1) // C).to(tl.int32)
    for i in tl.range(0, chunks, disable_licm=True):
        i_c = chunks - 1 - i
        row, token, o_t, micro = rows_of(start, i_c, NH, C)
        m_r = real_rows(length, i_c, NH, C)
        m_q = (m_r & (micro == NH - 1))[:, None]
        i_sh = (slot + i_c) * HV + i_h
        p_f = factors + i_sh * 4 * C
        p_k = k + (row * H + o_hk) * K + o_ck
        p_q = q + (token * H + o_hk) * K + (o_t[:, None] * (H * K) + o_k[None, :])
        p_do = do + (token * HV + i_h) * V + (o_t[:, None] * (HV * V) + o_v[None, :])
        b_k = tl.load(p_k, mask=m_r[:, None] & m_k[None, :], other=0.0).to(DOT)  # [C, BK]
        b_q = tl.load(p_q, mask=m_q & m_k[None, :], other=0.0).to(DOT)
        b_do = tl.load(p_do, mask=m_q & m_v[None, :], other=0.0)  # [C, BV]
        b_m = tl.load(mix + i_sh * C * C + o_cc).to(DOT)
        b_p = tl.load(attention + i_sh * C * C + o_cc).to(DOT)
        b_beta = tl.load(beta + row * HV + i_h + o_c * HV, mask=m_r, other=0.0).to(ACC)
        head = tl.load(p_f + o_c).to(ACC)
        tail = tl.load(p_f + C + o_c).to(ACC)
        rk = tl.load(p_f + 2 * C + o_c).to(ACC)
        rq = tl.load(p_f + 3 * C + o_c).to(ACC)
        whole = tl.load(p_f + C - 1).to(ACC)

        p_ds = dstates + i_sh * K * V + o_kv
        tl.store(p_ds, ds.to(dstates.dtype.element_ty), mask=m_kv)
        du = tl.dot(b_k, ds.to(DOT), input_precision=PRECISION) * (tail * rk)[:, None]
        du += tl.dot(tl.trans(b_p), b_do.to(DOT), input_precision=PRECISION)
        b_y = du - tl.dot(tl.trans(b_m), (b_beta[:, None] * du).to(DOT), input_precision=PRECISION)
        p_y = y + (row * HV + i_h) * V + o_cv
        tl.store(p_y, b_y.to(y.dtype.element_ty), mask=m_r[:, None] & m_v[None, :])
        read = ((scale * head * rq)[:, None] * b_do.to(ACC)).to(DOT)
        erase = ((head * rk * b_beta)[:, None] * b_y).to(DOT)
        ds = whole * ds + tl.dot(tl.trans(b_q), read, input_precision=PRECISION)
        ds -= tl.dot(tl.trans(b_k), erase, input_precision=PRECISION)
    tl.store(dh0 + i_nh * K * V + o_kv, ds.to(dh0.dtype.element_ty), mask=m_kv)


@triton.jit
def pair_with_past(
    p_x, p_e, p_s, o_x, o_e, o_s, m_x, m_r, m_k,
    V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """X E' [C, C] and X S' [C, BK]: rows against those of the chunk and the state before it."""
    x_e = tl.zeros([C, C], dtype=ACC)
    x_s = tl.zeros([C, BK], dtype=ACC)
    for i_v in tl.range(0, V, BV, disable_licm=True):
        o_v = i_v + tl.arange(0, BV)
        m_v = inside(o_v, V, BV)[None, :]
        o_v = o_v[None, :]
        b_x = tl.load(p_x + (o_x + o_v), mask=m_x[:, None] & m_v, other=0.0).to(DOT)
        b_e = tl.load(p_e + (o_e + o_v), mask=m_r[:, None] & m_v, other=0.0).to(DOT)
        b_s = tl.load(p_s + (o_s + o_v), mask=m_k[:, None] & m_v, other=0.0).to(DOT)
        x_e = tl.dot(b_x, tl.trans(b_e), x_e, input_precision=PRECISION)
        x_s = tl.dot(b_x, tl.trans(b_s), x_s, input_precision=PRECISION)
    return x_e, x_s


@triton.jit
def through_norm(dx, x, r):
    """The gradient of raw rows x from that of r x, where r = (x.x + eps)^-1/2."""
    radial = r * tl.sum(x * dx, axis=1) * r
    return r[:, None] * (dx - radial[:, None] * x)


@triton.jit(do_not_specialize=RUNTIME)
def chunk_gradients(
    q, k, beta, decay, do, errors, y, states, dstates, factors, cu_seqlens,
    dq, dk, dv, dbeta, ddecay, gates,
    scale, N, T,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, NH: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PACKED: tl.constexpr, DECAY: tl.constexpr, NORMALIZE: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, dk of one value head, dv, dbeta and the decay's gradient of one chunk.

    Each matrix that is needed in both orientations comes from two dots or two scans: a
    transposed accumulator never feeds a dot. Row factors (beta, norms, decays) scale
    accumulators, so that the large dots read tiles as they lie in memory.
    """
    i_s = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    i_n, i_c = locate(cu_seqlens, i_s, N, T, NH, C, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    if i_c * C >= length * NH:
        return
    row, token, o_t, micro = rows_of(start, i_c, NH, C)
    o_c = tl.arange(0, C)
    o_k = tl.arange(0, BK)
    m_r = real_rows(length, i_c, NH, C)
    m_q = m_r & (micro == NH - 1)
    m_a = m_r & (micro == 0)
    m_k = inside(o_k, K, BK)
    o_hk = i_h // (HV // H)
    i_sh = i_s * HV + i_h
    o_ck = o_c[:, None] * (H * K) + o_k[None, :]
    o_tk = o_t[:, None] * (H * K) + o_k[None, :]
    o_cv = o_c[:, None] * (HV * V)
    o_tv = o_t[:, None] * (HV * V)
    o_kv = o_k[:, None] * V
    p_e = errors + (row * HV + i_h) * V
    p_y = y + (row * HV + i_h) * V
    p_dv = dv + (row * HV + i_h) * V
    p_do = do + (token * HV + i_h) * V
    p_s = states + i_sh * K * V
    p_ds = dstates + i_sh * K * V
    m_rk = m_r[:, None] & m_k[None, :]
    m_qk = m_q[:, None] & m_k[None, :]
    p_f = factors + i_sh * 4 * C + o_c
    p_beta = beta + row * HV + i_h + o_c * HV
    p_k = k + (row * H + o_hk) * K
    p_q = q + (token * H + o_hk) * K
    p_a = decay + token * HV + i_h + o_t * HV
    k_dot = tl.load(p_k + o_ck, mask=m_rk, other=0.0).to(DOT)
    lower = o_c[:, None] > o_c[None, :]
    upper = o_c[:, None] < o_c[None, :]
    if DECAY:
        alpha = tl.load(p_a, mask=m_a, other=1.0).to(ACC)
        if NH == 1:
            p_a -= HV
        m_before = m_r & (o_c > 0) & (micro == 1 % NH)
        before = tl.load(p_a, mask=m_before, other=1.0).to(ACC)  # the decay one row earlier
        # G[t - 1, j] and G' pass through memory: as many registers would spill.
        o_cc = o_c[:, None] * C + o_c[None, :]
        p_between = gates + i_sh * 2 * C * C
        p_gates_t = p_between + C * C
        x = tl.where(o_c[:, None] > o_c[None, :] + 1, before[:, None], 1.0)
        x = tl.where(lower, tl.cumprod(x, axis=0), 0.0)
        tl.store(p_between + o_cc, x.to(gates.dtype.element_ty))
        x = tl.cumprod(tl.where(upper, alpha[None, :], 1.0), axis=1)
        tl.store(p_gates_t + o_cc, tl.where(lower, 0.0, x).to(gates.dtype.element_ty))
        tl.debug_barrier()

    # Row factors are loaded again in each pass, for the same reason.
    # What queries read: P, and the state before the chunk.
    x_e, x_s = pair_with_past(
        p_do, p_e, p_s, o_tv, o_cv, o_kv, m_q, m_r, m_k, V, C, BK, BV, ACC, DOT, PRECISION
    )  # fmt: skip
    head = tl.load(p_f).to(ACC)
    rk = tl.load(p_f + 2 * C).to(ACC)
    rq = tl.load(p_f + 3 * C).to(ACC)
    b_beta = tl.load(p_beta, mask=m_r, other=0.0).to(ACC)
    x_e = tl.where(upper, 0.0, x_e) * (scale * b_beta * rk)[None, :]
    if DECAY:
        # dalpha_t: sum over j < t <= i of G[i, t] W[i, j] G[t - 1, j]; W pairs rows without G.
        q_dot = tl.load(p_q + o_tk, mask=m_qk, other=0.0).to(DOT)
        w = x_e * tl.dot(q_dot, tl.trans(k_dot), input_precision=PRECISION) * rq[:, None]
        w = tl.dot(tl.load(p_gates_t + o_cc).to(DOT), w.to(DOT), input_precision=PRECISION)
        between = tl.load(p_between + o_cc).to(ACC)
        b_da = tl.sum(between * w, axis=1)
        x_e = tl.where(lower, x_e * alpha[:, None] * between, x_e)
    dx = tl.dot(x_e.to(DOT), k_dot, input_precision=PRECISION) + (scale * head)[:, None] * x_s
    if DECAY or NORMALIZE:
        x = tl.load(p_q + o_tk, mask=m_qk, other=0.0).to(ACC)
        if DECAY:
            w_first = scale * rq * tl.sum(x * x_s, axis=1)
        if NORMALIZE:
            dx = through_norm(dx, x, rq)
    p_dq = dq + (token * HV + i_h) * K + (o_t[:, None] * (HV * K) + o_k[None, :])
    tl.store(p_dq, dx.to(dq.dtype.element_ty), mask=m_qk)

    # What updates read: A = tril(KK'), and the state before the chunk.
    x_e, x_s = pair_with_past(
        p_y, p_e, p_s, o_cv, o_cv, o_kv, m_r, m_r, m_k, V, C, BK, BV, ACC, DOT, PRECISION
    )  # fmt: skip
    head = tl.load(p_f).to(ACC)
    rk = tl.load(p_f + 2 * C).to(ACC)
    b_beta = tl.load(p_beta, mask=m_r, other=0.0).to(ACC)
    x_e = tl.where(lower, x_e, 0.0) * -b_beta[:, None] * (b_beta * rk)[None, :]
    if DECAY:
        w = x_e * tl.dot(k_dot, tl.trans(k_dot), input_precision=PRECISION) * rk[:, None]
        w = tl.dot(tl.load(p_gates_t + o_cc).to(DOT), w.to(DOT), input_precision=PRECISION)
        between = tl.load(p_between + o_cc).to(ACC)
        b_da += tl.sum(between * w, axis=1)
        x_e *= alpha[:, None] * between
    dx = tl.dot(x_e.to(DOT), k_dot, input_precision=PRECISION) - (head * b_beta)[:, None] * x_s
    if DECAY:
        x = tl.load(p_k + o_ck, mask=m_rk, other=0.0).to(ACC)
        w_first -= b_beta * rk * tl.sum(x * x_s, axis=1)

    # What others read of a row's key: P and A from the other side.
    b_beta = tl.load(p_beta, mask=m_r, other=0.0).to(ACC)
    e_do = tl.zeros([C, C], dtype=ACC)
    e_y = tl.zeros([C, C], dtype=ACC)
    b_dbeta = tl.zeros([C], dtype=ACC)
    for i_v in tl.range(0, V, BV, disable_licm=True):
        o_v = i_v + tl.arange(0, BV)
        m_v = inside(o_v, V, BV)[None, :]
        o_v = o_v[None, :]
        m_rv = m_r[:, None] & m_v
        b_do = tl.load(p_do + (o_tv + o_v), mask=m_q[:, None] & m_v, other=0.0).to(DOT)
        b_e = tl.load(p_e + (o_cv + o_v), mask=m_rv, other=0.0).to(DOT)
        b_y = tl.load(p_y + (o_cv + o_v), mask=m_rv, other=0.0).to(DOT)
        e_do = tl.dot(b_e, tl.trans(b_do), e_do, input_precision=PRECISION)
        e_y = tl.dot(b_e, tl.trans(b_y), e_y, input_precision=PRECISION)
        b_dbeta += tl.sum(b_e.to(ACC) * b_y.to(ACC), axis=1)
        b_dv = b_beta[:, None] * b_y.to(ACC)
        tl.store(p_dv + (o_cv + o_v), b_dv.to(dv.dtype.element_ty), mask=m_rv)
    rk = tl.load(p_f + 2 * C).to(ACC)
    rq = tl.load(p_f + 3 * C).to(ACC)
    e_do = tl.where(lower, 0.0, e_do) * (scale * b_beta)[:, None] * rq[None, :]
    e_y = tl.where(upper, e_y, 0.0) * -b_beta[:, None] * (b_beta * rk)[None, :]
    if DECAY:
        gates_t = tl.load(p_gates_t + o_cc).to(ACC)
        e_do *= gates_t
        e_y *= gates_t
    p_dbeta = dbeta + row * HV + i_h + o_c * HV
    tl.store(p_dbeta, b_dbeta.to(dbeta.dtype.element_ty), mask=m_r)
    q_dot = tl.load(p_q + o_tk, mask=m_qk, other=0.0).to(DOT)
    dx = tl.dot(e_do.to(DOT), q_dot, dx, input_precision=PRECISION)
    dx = tl.dot(e_y.to(DOT), k_dot, dx, input_precision=PRECISION)

    # What a row writes into the state after the chunk.
    x_s = tl.zeros([C, BK], dtype=ACC)
    s_ds = tl.zeros([BK], dtype=ACC)
    for i_v in tl.range(0, V, BV, disable_licm=True):
        o_v = i_v + tl.arange(0, BV)
        m_v = inside(o_v, V, BV)[None, :]
        o_v = o_v[None, :]
        b_e = tl.load(p_e + (o_cv + o_v), mask=m_r[:, None] & m_v, other=0.0).to(DOT)
        b_ds = tl.load(p_ds + (o_kv + o_v), mask=m_k[:, None] & m_v, other=0.0).to(DOT)
        x_s = tl.dot(b_e, tl.trans(b_ds), x_s, input_precision=PRECISION)
        if DECAY:
            b_s = tl.load(p_s + (o_kv + o_v), mask=m_k[:, None] & m_v, other=0.0).to(ACC)
            s_ds += tl.sum(b_s * b_ds.to(ACC), axis=1)
    tail = tl.load(p_f + C).to(ACC)
    rk = tl.load(p_f + 2 * C).to(ACC)
    b_beta = tl.load(p_beta, mask=m_r, other=0.0).to(ACC)
    dx += (tail * b_beta)[:, None] * x_s
    if DECAY or NORMALIZE:
        x = tl.load(p_k + o_ck, mask=m_rk, other=0.0).to(ACC)
        if DECAY:
            # Pairs of the chunk with the states at its two ends, and of these with each other.
            w_last = b_beta * rk * tl.sum(x * x_s, axis=1)
            b_da += tail * tl.sum(tl.load(p_between + o_cc).to(ACC) * w_last[None, :], axis=1)
            to_first = tl.sum(tl.load(p_gates_t + o_cc).to(ACC) * w_first[None, :], axis=1)
            b_da += tl.cumprod(before, axis=0) * (to_first + tail * tl.sum(s_ds, axis=0))
            p_da = ddecay + token * HV + i_h + o_t * HV
            tl.store(p_da, b_da.to(ddecay.dtype.element_ty), mask=m_a)
        if NORMALIZE:
            dx = through_norm(dx, x, rk)
    p_dk = dk + (row * HV + i_h) * K + (o_c[:, None] * (HV * K) + o_k[None, :])
    tl.store(p_dk, dx.to(dk.dtype.element_ty), mask=m_rk)
