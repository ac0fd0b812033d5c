# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the chunked delta rule's gradient; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .kernels_fwd import RUNTIME, bounds, first_slot, locate


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
    rows = length * NH
    o_c = tl.arange(0, C)
    o_k = tl.arange(0, BK)
    o_v = tl.program_id(1) * BV + tl.arange(0, BV)
    m_k = o_k < K
    m_v = o_v < V
    m_kv = m_k[:, None] & m_v[None, :]
    o_kv = o_k[:, None] * V + o_v[None, :]
    o_cc = o_c[:, None] * C + o_c[None, :]
    o_hk = i_h // (HV // H)

    ds = tl.load(dhT + i_nh * K * V + o_kv, mask=m_kv, other=0.0).to(ACC)
    chunks = (rows + C - 1) // C
    for i in range(0, chunks):
        i_c = chunks - 1 - i
        o_r = i_c * C + o_c
        m_r = o_r < rows
        m_q = m_r & (o_r % NH == NH - 1)
        o_row = start * NH + o_r
        o_t = start + o_r // NH
        i_sh = (slot + i_c) * HV + i_h
        p_f = factors + i_sh * 4 * C + o_c
        p_k = k + (o_row[:, None] * H + o_hk) * K + o_k[None, :]
        p_q = q + (o_t[:, None] * H + o_hk) * K + o_k[None, :]
        p_do = do + (o_t[:, None] * HV + i_h) * V + o_v[None, :]
        b_k = tl.load(p_k, mask=m_r[:, None] & m_k[None, :], other=0.0).to(DOT)  # [C, BK]
        b_q = tl.load(p_q, mask=m_q[:, None] & m_k[None, :], other=0.0).to(DOT)
        b_do = tl.load(p_do, mask=m_q[:, None] & m_v[None, :], other=0.0)  # [C, BV]
        b_m = tl.load(mix + i_sh * C * C + o_cc).to(DOT)
        b_p = tl.load(attention + i_sh * C * C + o_cc).to(DOT)
        b_beta = tl.load(beta + o_row * HV + i_h, mask=m_r, other=0.0).to(ACC)
        head = tl.load(p_f).to(ACC)
        tail = tl.load(p_f + C).to(ACC)
        rk = tl.load(p_f + 2 * C).to(ACC)
        rq = tl.load(p_f + 3 * C).to(ACC)
        whole = tl.load(factors + i_sh * 4 * C + C - 1).to(ACC)

        p_ds = dstates + i_sh * K * V + o_kv
        tl.store(p_ds, ds.to(dstates.dtype.element_ty), mask=m_kv)
        du = tl.dot(b_k, ds.to(DOT), input_precision=PRECISION) * (tail * rk)[:, None]
        du += tl.dot(tl.trans(b_p), b_do.to(DOT), input_precision=PRECISION)
        b_y = du - tl.dot(
            tl.trans(b_m), (b_beta[:, None] * du).to(DOT), input_precision=PRECISION
        )
        p_y = y + (o_row[:, None] * HV + i_h) * V + o_v[None, :]
        tl.store(p_y, b_y.to(y.dtype.element_ty), mask=m_r[:, None] & m_v[None, :])
        read = ((scale * head * rq)[:, None] * b_do.to(ACC)).to(DOT)
        erase = ((head * rk * b_beta)[:, None] * b_y).to(DOT)
        ds = whole * ds + tl.dot(tl.trans(b_q), read, input_precision=PRECISION)
        ds -= tl.dot(tl.trans(b_k), erase, input_precision=PRECISION)
    tl.store(dh0 + i_nh * K * V + o_kv, ds.to(dh0.dtype.element_ty), mask=m_kv)


@triton.jit
def through_norm(dx, x, r):
    """The gradient of raw rows x from that of r x, where r = (x.x + eps)^-1/2."""
    radial = r * tl.sum(x * dx, axis=1) * r
    return r[:, None] * (dx - radial[:, None] * x)


@triton.jit(do_not_specialize=RUNTIME)
def chunk_gradients(
    q, k, beta, decay, do, errors, y, states, dstates, factors, cu_seqlens,
    dq, dk, dv, dbeta, ddecay,
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
    o_c = tl.arange(0, C)
    o_k = tl.arange(0, BK)
    o_r = i_c * C + o_c
    m_r = o_r < length * NH
    m_q = m_r & (o_r % NH == NH - 1)
    m_a = m_r & (o_r % NH == 0)
    m_k = o_k < K
    o_row = start * NH + o_r
    o_t = start + o_r // NH
    o_hk = i_h // (HV // H)
    i_sh = i_s * HV + i_h
    p_s = i_sh * K * V + o_k[:, None] * V
    p_v = (o_row[:, None] * HV + i_h) * V
    p_do = do + (o_t[:, None] * HV + i_h) * V
    m_rk = m_r[:, None] & m_k[None, :]
    m_qk = m_q[:, None] & m_k[None, :]
    p_f = factors + i_sh * 4 * C + o_c
    head = tl.load(p_f).to(ACC)
    tail = tl.load(p_f + C).to(ACC)
    rk = tl.load(p_f + 2 * C).to(ACC)
    rq = tl.load(p_f + 3 * C).to(ACC)
    b_beta = tl.load(beta + o_row * HV + i_h, mask=m_r, other=0.0).to(ACC)
    b_k = tl.load(k + (o_row[:, None] * H + o_hk) * K + o_k[None, :], mask=m_rk, other=0.0)
    b_q = tl.load(q + (o_t[:, None] * H + o_hk) * K + o_k[None, :], mask=m_qk, other=0.0)
    k_dot = b_k.to(DOT)
    q_dot = b_q.to(DOT)

    lower = o_c[:, None] > o_c[None, :]
    upper = o_c[:, None] < o_c[None, :]
    if DECAY:
        p_a = decay + o_t * HV + i_h
        alpha = tl.load(p_a, mask=m_a, other=1.0).to(ACC)
        gates = tl.cumprod(tl.where(lower, alpha[:, None], 1.0), axis=0)
        gates_t = tl.cumprod(tl.where(upper, alpha[None, :], 1.0), axis=1)
        gates = tl.where(upper, 0.0, gates)
        gates_t = tl.where(lower, 0.0, gates_t)
    else:
        gates = tl.where(upper, 0.0, tl.full([C, C], 1.0, dtype=ACC))
        gates_t = tl.where(lower, 0.0, tl.full([C, C], 1.0, dtype=ACC))

    # Queries: what dO sends to q and, through P, to k.
    do_s = tl.zeros([C, BK], dtype=ACC)  # dO S'
    do_e = tl.zeros([C, C], dtype=ACC)  # dO E'
    e_do = tl.zeros([C, C], dtype=ACC)
    for i_v in range(0, V, BV):
        o_v = (i_v + tl.arange(0, BV))[None, :]
        m_v = o_v < V
        b_do = tl.load(p_do + o_v, mask=m_q[:, None] & m_v, other=0.0).to(DOT)
        b_e = tl.load(errors + p_v + o_v, mask=m_r[:, None] & m_v, other=0.0).to(DOT)
        b_s = tl.load(states + p_s + o_v, mask=m_k[:, None] & m_v, other=0.0).to(DOT)
        do_s = tl.dot(b_do, tl.trans(b_s), do_s, input_precision=PRECISION)
        do_e = tl.dot(b_do, tl.trans(b_e), do_e, input_precision=PRECISION)
        e_do = tl.dot(b_e, tl.trans(b_do), e_do, input_precision=PRECISION)
    to_k = (do_e * gates * (scale * b_beta * rk)[None, :]).to(DOT)
    dq_hat = tl.dot(to_k, k_dot, input_precision=PRECISION) + (scale * head)[:, None] * do_s
    to_q = (e_do * gates_t * (scale * b_beta)[:, None] * rq[None, :]).to(DOT)
    dk_hat = tl.dot(to_q, q_dot, input_precision=PRECISION)
    if DECAY:
        qk = tl.dot(q_dot, tl.trans(k_dot), input_precision=PRECISION)
        w = tl.where(upper, 0.0, do_e * qk * (scale * rq)[:, None] * (b_beta * rk)[None, :])
        w_first = scale * rq * tl.sum(b_q.to(ACC) * do_s, axis=1)
    if NORMALIZE:
        dq_hat = through_norm(dq_hat, b_q.to(ACC), rq)
    p_dq = dq + (o_t[:, None] * HV + i_h) * K + o_k[None, :]
    tl.store(p_dq, dq_hat.to(dq.dtype.element_ty), mask=m_qk)

    # Reads of the state before each update: K S.
    y_s = tl.zeros([C, BK], dtype=ACC)
    y_e = tl.zeros([C, C], dtype=ACC)
    e_y = tl.zeros([C, C], dtype=ACC)
    b_dbeta = tl.zeros([C], dtype=ACC)
    for i_v in range(0, V, BV):
        o_v = (i_v + tl.arange(0, BV))[None, :]
        m_v = o_v < V
        m_rv = m_r[:, None] & m_v
        b_y = tl.load(y + p_v + o_v, mask=m_rv, other=0.0).to(DOT)
        b_e = tl.load(errors + p_v + o_v, mask=m_rv, other=0.0).to(DOT)
        b_s = tl.load(states + p_s + o_v, mask=m_k[:, None] & m_v, other=0.0).to(DOT)
        y_s = tl.dot(b_y, tl.trans(b_s), y_s, input_precision=PRECISION)
        y_e = tl.dot(b_y, tl.trans(b_e), y_e, input_precision=PRECISION)
        e_y = tl.dot(b_e, tl.trans(b_y), e_y, input_precision=PRECISION)
        b_dbeta += tl.sum(b_e.to(ACC) * b_y.to(ACC), axis=1)
        b_dv = b_beta[:, None] * b_y.to(ACC)
        tl.store(dv + p_v + o_v, b_dv.to(dv.dtype.element_ty), mask=m_rv)
    tl.store(dbeta + o_row * HV + i_h, b_dbeta.to(dbeta.dtype.element_ty), mask=m_r)
    da = tl.where(lower, y_e * gates, 0.0) + tl.where(upper, e_y * gates_t, 0.0)
    to_k = (da * b_beta[:, None] * (b_beta * rk)[None, :]).to(DOT)
    dk_hat -= tl.dot(to_k, k_dot, input_precision=PRECISION)
    dk_hat -= (head * b_beta)[:, None] * y_s
    if DECAY:
        kk = tl.dot(k_dot, tl.trans(k_dot), input_precision=PRECISION)
        kk *= (b_beta * rk)[:, None] * (b_beta * rk)[None, :]
        w -= tl.where(lower, y_e * kk, 0.0)
        w_first -= b_beta * rk * tl.sum(b_k.to(ACC) * y_s, axis=1)

    # Writes into the state after the chunk.
    e_ds = tl.zeros([C, BK], dtype=ACC)
    s_ds = tl.zeros([BK], dtype=ACC)
    for i_v in range(0, V, BV):
        o_v = (i_v + tl.arange(0, BV))[None, :]
        m_v = o_v < V
        b_e = tl.load(errors + p_v + o_v, mask=m_r[:, None] & m_v, other=0.0).to(DOT)
        b_ds = tl.load(dstates + p_s + o_v, mask=m_k[:, None] & m_v, other=0.0).to(DOT)
        e_ds = tl.dot(b_e, tl.trans(b_ds), e_ds, input_precision=PRECISION)
        if DECAY:
            b_s = tl.load(states + p_s + o_v, mask=m_k[:, None] & m_v, other=0.0).to(ACC)
            s_ds += tl.sum(b_s * b_ds.to(ACC), axis=1)
    dk_hat += (tail * b_beta)[:, None] * e_ds
    if DECAY:
        # dalpha_t = sum over j < t <= i of G[i, t] W[i, j] G[t - 1, j], states at both ends.
        w_last = b_beta * rk * tl.sum(b_k.to(ACC) * e_ds, axis=1)
        m_before = (o_c > 0) & ((o_r - 1) % NH == 0)
        before = tl.load(decay + (start + (o_r - 1) // NH) * HV + i_h, mask=m_before & m_r, other=1.0)
        before = before.to(ACC)  # the decay of the row before, inside the chunk
        shifted = tl.cumprod(
            tl.where(o_c[:, None] > o_c[None, :] + 1, before[:, None], 1.0), axis=0
        )
        u = tl.dot(gates_t, w, input_precision=PRECISION) + tail[:, None] * w_last[None, :]
        b_da = tl.sum(tl.where(lower, shifted * u, 0.0), axis=1)
        u_first = tl.sum(gates_t * w_first[None, :], axis=1) + tail * tl.sum(s_ds, axis=0)
        b_da += tl.cumprod(before, axis=0) * u_first
        tl.store(ddecay + o_t * HV + i_h, b_da.to(ddecay.dtype.element_ty), mask=m_a)
    if NORMALIZE:
        dk_hat = through_norm(dk_hat, b_k.to(ACC), rk)
    p_dk = dk + (o_row[:, None] * HV + i_h) * K + o_k[None, :]
    tl.store(p_dk, dk_hat.to(dk.dtype.element_ty), mask=m_rk)
