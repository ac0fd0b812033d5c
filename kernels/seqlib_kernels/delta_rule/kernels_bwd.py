# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the chunked delta rule's gradient; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .._core.kernels_chunks import bounds, inside, locate, products, row_block, store_rows
from .kernels_fwd import RUNTIME, SWEEP, chunk_at, segment_at, state_block


@triton.jit(do_not_specialize=SWEEP)
def backward_sweep(
    q, k, beta, do, dhT, mix, attention, factors, cu_seqlens,
    dh0, dstates, y, dv,
    scale, N, T, segment,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, NH: tl.constexpr,
    C: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PACKED: tl.constexpr, SPLIT: tl.constexpr, MAP: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """dU = P'dO + G_C K dS;  Y = dU - M'(beta dU);  dS = g_C dS + scale (gQ)'dO - (gK)'(beta Y).

    Writes dS after each chunk, Y, the gradient of the updates U, and dV = beta Y. With MAP it
    writes only what a segment adds to dS before it, from none after it, into dh0.
    """
    NB: tl.constexpr = (K + BK - 1) // BK
    i_nh = tl.program_id(0).to(tl.int64)
    i_h = i_nh % HV
    i_n, start, length, slot, i_g, after = segment_at(
        cu_seqlens, i_nh // HV, N, T, segment, NH, C, PACKED, SPLIT
    )
    if after < 0:
        return
    o_c = tl.arange(0, C)
    o_q = tl.arange(0, Q)
    o_v = tl.program_id(1) * BV + tl.arange(0, BV)
    m_v = inside(o_v, V, BV)
    o_cc = o_c[:, None] * C + o_c[None, :]
    o_qc = o_q[:, None] * C + o_c[None, :]
    o_cv = o_c[:, None] * (HV * V) + o_v[None, :]
    o_hk = i_h // (HV // H)

    ds = ()
    for b in tl.static_range(NB):
        ds_b = tl.zeros([BK, BV], dtype=ACC)
        if not MAP:
            o_kv, m_kv = state_block(b * BK, o_v, m_v, K, V, BK)
            ds_b += tl.load(dhT + i_nh * K * V + o_kv, mask=m_kv, other=0.0).to(ACC)
        ds = ds + (ds_b,)  # noqa: RUF005 - no unpacking in kernels
    chunks = tl.cdiv(length, C // NH).to(tl.int32)
    for i in tl.range(0, chunks, disable_licm=True):
        i_c = chunks - 1 - i
        token, m_r, m_q = chunk_at(start, length, i_c, NH, C, Q)
        row = token * NH
        m_rv = m_r[:, None] & m_v[None, :]
        i_sh = (slot + i_c) * HV + i_h
        p_f = factors + i_sh * (3 * C + 2 * Q)
        p_k = k + (row * H + o_hk) * K
        p_q = q + (token * H + o_hk) * K
        k_ds = tl.zeros([C, BV], dtype=ACC)
        for b in tl.static_range(NB):
            if not MAP:
                o_kv, m_kv = state_block(b * BK, o_v, m_v, K, V, BK)
                p_ds = dstates + i_sh * K * V + o_kv
                tl.store(p_ds, ds[b].to(dstates.dtype.element_ty), mask=m_kv)
            b_k = row_block(p_k, o_c * (H * K), m_r, b * BK, K, BK).to(DOT)
            k_ds = tl.dot(b_k, ds[b].to(DOT), k_ds, input_precision=PRECISION)
        p_do = do + (token * HV + i_h) * V + (o_q[:, None] * (HV * V) + o_v[None, :])
        b_do = tl.load(p_do, mask=m_q[:, None] & m_v[None, :], other=0.0)  # [Q, BV]
        b_m = tl.load(mix + i_sh * C * C + o_cc).to(ACC)
        b_p = tl.load(attention + i_sh * Q * C + o_qc).to(DOT)
        b_beta = tl.load(beta + row * HV + i_h + o_c * HV, mask=m_r, other=0.0).to(ACC)
        head = tl.load(p_f + o_c).to(ACC)
        tail = tl.load(p_f + C + o_c).to(ACC)
        rk = tl.load(p_f + 2 * C + o_c).to(ACC)
        rq = tl.load(p_f + 3 * C + o_q).to(ACC)
        head_q = tl.load(p_f + 3 * C + Q + o_q).to(ACC)
        du = (tail * rk)[:, None] * k_ds
        du += tl.dot(tl.trans(b_p), b_do.to(DOT), input_precision=PRECISION)
        b_y = du - tl.dot(tl.trans(b_m), b_beta[:, None] * du, input_precision=EXACT)
        b_dv = b_beta[:, None] * b_y
        if not MAP:
            o_y = (row * HV + i_h) * V + o_cv
            tl.store(y + o_y, b_y.to(y.dtype.element_ty), mask=m_rv)
            tl.store(dv + o_y, b_dv.to(dv.dtype.element_ty), mask=m_rv)
        whole = tl.load(p_f + C - 1).to(ACC)
        read = ((scale * head_q * rq)[:, None] * b_do.to(ACC)).to(DOT)
        erase = ((head * rk)[:, None] * b_dv).to(DOT)
        before = ()
        for b in tl.static_range(NB):
            b_q = row_block(p_q, o_q * (H * K), m_q, b * BK, K, BK).to(DOT)
            new = tl.dot(tl.trans(b_q), read, input_precision=PRECISION)
            b_k = row_block(p_k, o_c * (H * K), m_r, b * BK, K, BK).to(DOT)
            old = tl.dot(tl.trans(b_k), erase, input_precision=PRECISION)
            before = before + (whole * ds[b] + new - old,)  # noqa: RUF005
        ds = before
    p_0 = dh0 + i_nh * K * V
    if SPLIT and not MAP:  # the first segment writes the gradient of its sequence's state
        p_0 = dh0 + (i_n * HV + i_h) * K * V
        m_v &= i_g + o_v * 0 == 0
    for b in tl.static_range(NB):
        o_kv, m_kv = state_block(b * BK, o_v, m_v, K, V, BK)
        tl.store(p_0 + o_kv, ds[b].to(dh0.dtype.element_ty), mask=m_kv)


@triton.jit
def inner(
    p_x, p_y, i_k,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """<X, Y> of BK rows of two states, by row."""
    x_y = tl.zeros([BK], dtype=ACC)
    for i_v in tl.range(0, V, BV, disable_licm=True):
        o_v = i_v + tl.arange(0, BV)
        o_kv, m_kv = state_block(i_k, o_v, inside(o_v, V, BV), K, V, BK)
        b_x = tl.load(p_x + o_kv, mask=m_kv, other=0.0).to(ACC)
        x_y += tl.sum(b_x * tl.load(p_y + o_kv, mask=m_kv, other=0.0).to(ACC), axis=1)
    return x_y


@triton.jit
def through_norm(
    p_dx, o_dx, p_x, o_x, p_raw, o_raw, m_r, r, along,
    K: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx of raw rows x from that of r x in p_raw, where r = (x.x + eps)^-1/2, along = x.d(r x)."""
    tl.debug_barrier()  # other threads wrote what this one reads
    for i in tl.range(0, K, BK, disable_licm=True):
        x = row_block(p_x, o_x, m_r, i, K, BK).to(ACC)
        dx = row_block(p_raw, o_raw, m_r, i, K, BK).to(ACC)
        dx = r[:, None] * (dx - (r * along * r)[:, None] * x)
        store_rows(p_dx, o_dx, m_r, i, dx, K, BK)
    tl.debug_barrier()


@triton.jit(do_not_specialize=RUNTIME)
def chunk_gradients(
    q, k, beta, decay, do, errors, y, states, dstates, factors, cu_seqlens,
    dq, dk, dbeta, ddecay, gates, raw,
    scale, N, T,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, NH: tl.constexpr,
    C: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PACKED: tl.constexpr, DECAY: tl.constexpr, NORMALIZE: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """dq, dk of one value head, dbeta and the decay's gradient of one chunk.

    Each matrix that is needed in both orientations comes from two dots or two scans: a
    transposed accumulator never feeds a dot. Row factors (beta, norms, decays) scale
    accumulators, so that the large dots read tiles as they lie in memory. Decays are those of
    tokens: one matrix G [Q, Q] in memory, of which rows read the entry of their token.
    """
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
    t_c = o_c // NH
    o_k = tl.arange(0, BK)
    o_hk = i_h // (HV // H)
    i_sh = i_s * HV + i_h
    o_ck = o_c * (H * K)
    o_qk = o_q * (H * K)
    o_cv = o_c * (HV * V)
    o_qv = o_q * (HV * V)
    p_e = errors + (row * HV + i_h) * V
    p_y = y + (row * HV + i_h) * V
    p_do = do + (token * HV + i_h) * V
    p_s = states + i_sh * K * V
    p_ds = dstates + i_sh * K * V
    p_f = factors + i_sh * (3 * C + 2 * Q)
    p_beta = beta + row * HV + i_h + o_c * HV
    p_k = k + (row * H + o_hk) * K
    p_q = q + (token * H + o_hk) * K
    p_dq = dq + (token * HV + i_h) * K
    p_dk = dk + (row * HV + i_h) * K
    p_raw = raw + i_sh * C * K  # dq, then dk, of normalised rows: as many registers would spill
    lower = o_c[:, None] > o_c[None, :]
    upper = o_c[:, None] < o_c[None, :]
    if DECAY:
        # G passes through memory: as many registers would spill.
        alpha = tl.load(decay + token * HV + i_h + o_q * HV, mask=m_q, other=1.0).to(ACC)
        p_g = gates + i_sh * Q * Q
        g = tl.cumprod(tl.where(o_q[:, None] > o_q[None, :], alpha[:, None], 1.0), axis=0)
        g = tl.where(o_q[:, None] >= o_q[None, :], g, 0.0).to(gates.dtype.element_ty)
        tl.store(p_g + (o_q[:, None] * Q + o_q[None, :]), g)
        tl.debug_barrier()
        # Token s of the sums decays what lies before it, G[s - 1, j], on the way to what follows.
        p_before = p_g + ((o_q - 1)[:, None] * Q + t_c[None, :])
        m_before = o_q[:, None] > t_c[None, :]
        p_after_q = p_g + (o_q[None, :] * Q + o_q[:, None])
        p_after_c = p_g + (t_c[None, :] * Q + o_q[:, None])

    # What queries read: P, and the state before the chunk.
    rk = tl.load(p_f + 2 * C + o_c).to(ACC)
    rq = tl.load(p_f + 3 * C + o_q).to(ACC)
    head_q = tl.load(p_f + 3 * C + Q + o_q).to(ACC)
    b_beta = tl.load(p_beta, mask=m_r, other=0.0).to(ACC)
    x_e = products(p_do, p_e, o_qv, o_cv, m_q, m_r, V, BV, ACC, DOT, PRECISION)
    seen = (o_q * NH + (NH - 1))[:, None] >= o_c[None, :]
    x_e = tl.where(seen, x_e, 0.0) * (scale * b_beta * rk)[None, :]
    if DECAY:
        # dalpha_s: sum over j < s <= i of G[i, s] W[i, j] G[s - 1, j]; W pairs rows without G.
        x_k = products(p_q, p_k, o_qk, o_ck, m_q, m_r, K, BK, ACC, DOT, PRECISION)
        w = x_e * x_k * rq[:, None]
        w = tl.dot(tl.load(p_after_q).to(DOT), w.to(DOT), input_precision=PRECISION)
        b_da = tl.sum(tl.load(p_before, mask=m_before, other=0.0).to(ACC) * w, axis=1)
        x_e *= tl.load(p_g + (o_q[:, None] * Q + t_c[None, :])).to(ACC)
    x_dot = x_e.to(DOT)
    along = tl.zeros([Q], dtype=ACC)
    x_first = tl.zeros([Q], dtype=ACC)
    for i in tl.range(0, K, BK, disable_licm=True):
        o_s = (i + o_k) * V
        m_s = inside(i + o_k, K, BK)
        x_s = products(p_do, p_s, o_qv, o_s, m_q, m_s, V, BV, ACC, DOT, PRECISION)
        b_k = row_block(p_k, o_ck, m_r, i, K, BK).to(DOT)
        dx = tl.dot(x_dot, b_k, input_precision=PRECISION) + (scale * head_q)[:, None] * x_s
        if DECAY or NORMALIZE:
            x = row_block(p_q, o_qk, m_q, i, K, BK).to(ACC)
            along += tl.sum(x * dx, axis=1)
            x_first += tl.sum(x * x_s, axis=1)
        if NORMALIZE:
            store_rows(p_raw, o_q * K, m_q, i, dx, K, BK)
        else:
            store_rows(p_dq, o_q * (HV * K), m_q, i, dx, K, BK)
    if NORMALIZE:
        through_norm(
            p_dq, o_q * (HV * K), p_q, o_qk, p_raw, o_q * K, m_q, rq, along, K, BK, ACC
        )  # fmt: skip
    if DECAY:
        before = tl.load(p_f + 3 * C + Q + o_q - 1, mask=o_q > 0, other=1.0).to(ACC)
        w_first = tl.load(p_after_q).to(ACC) * (scale * rq * x_first)[None, :]
        b_da += before * tl.sum(w_first, axis=1)

    # What updates read, A = tril(KK'), and what others read of a row's key: A and P from the
    # other side. Row factors are loaded again, since as many registers would spill.
    rk = tl.load(p_f + 2 * C + o_c).to(ACC)
    rq = tl.load(p_f + 3 * C + o_q).to(ACC)
    b_beta = tl.load(p_beta, mask=m_r, other=0.0).to(ACC)
    x_e = products(p_y, p_e, o_cv, o_cv, m_r, m_r, V, BV, ACC, DOT, PRECISION)
    b_dbeta = tl.sum(tl.where(o_c[:, None] == o_c[None, :], x_e, 0.0), axis=1)
    p_dbeta = dbeta + row * HV + i_h + o_c * HV
    tl.store(p_dbeta, b_dbeta.to(dbeta.dtype.element_ty), mask=m_r)
    x_e = tl.where(lower, x_e, 0.0) * -b_beta[:, None] * (b_beta * rk)[None, :]
    if DECAY:
        x_k = products(p_k, p_k, o_ck, o_ck, m_r, m_r, K, BK, ACC, DOT, PRECISION)
        w = x_e * x_k * rk[:, None]
        w = tl.dot(tl.load(p_after_c).to(DOT), w.to(DOT), input_precision=PRECISION)
        b_da += tl.sum(tl.load(p_before, mask=m_before, other=0.0).to(ACC) * w, axis=1)
        x_e *= tl.load(p_g + (t_c[:, None] * Q + t_c[None, :])).to(ACC)
    e_y = products(p_e, p_y, o_cv, o_cv, m_r, m_r, V, BV, ACC, DOT, PRECISION)
    e_y = tl.where(upper, e_y, 0.0) * -b_beta[:, None] * (b_beta * rk)[None, :]
    e_do = products(p_e, p_do, o_cv, o_qv, m_r, m_q, V, BV, ACC, DOT, PRECISION)
    seen = (o_q * NH + (NH - 1))[None, :] >= o_c[:, None]
    e_do = tl.where(seen, e_do, 0.0) * (scale * b_beta)[:, None] * rq[None, :]
    if DECAY:
        e_y *= tl.load(p_g + (t_c[None, :] * Q + t_c[:, None])).to(ACC)
        e_do *= tl.load(p_g + (o_q[None, :] * Q + t_c[:, None])).to(ACC)
    k_dot = (x_e + e_y).to(DOT)
    q_dot = e_do.to(DOT)

    # The same for each block of keys, with what a row writes into the state after the chunk.
    head = tl.load(p_f + o_c).to(ACC)
    tail = tl.load(p_f + C + o_c).to(ACC)
    rk = tl.load(p_f + 2 * C + o_c).to(ACC)
    b_beta = tl.load(p_beta, mask=m_r, other=0.0).to(ACC)
    along = tl.zeros([C], dtype=ACC)
    x_first = tl.zeros([C], dtype=ACC)
    x_last = tl.zeros([C], dtype=ACC)
    s_ds = tl.zeros([BK], dtype=ACC)
    for i in tl.range(0, K, BK, disable_licm=True):
        o_s = (i + o_k) * V
        m_s = inside(i + o_k, K, BK)
        y_s = products(p_y, p_s, o_cv, o_s, m_r, m_s, V, BV, ACC, DOT, PRECISION)
        e_ds = products(p_e, p_ds, o_cv, o_s, m_r, m_s, V, BV, ACC, DOT, PRECISION)
        dx = (tail * b_beta)[:, None] * e_ds - (head * b_beta)[:, None] * y_s
        if DECAY:
            x = row_block(p_k, o_ck, m_r, i, K, BK).to(ACC)
            x_first += tl.sum(x * y_s, axis=1)
            x_last += tl.sum(x * e_ds, axis=1)
            s_ds += inner(p_s, p_ds, i, K, V, BK, BV, ACC)
        b_k = row_block(p_k, o_ck, m_r, i, K, BK).to(DOT)
        dx = tl.dot(k_dot, b_k, dx, input_precision=PRECISION)
        b_q = row_block(p_q, o_qk, m_q, i, K, BK).to(DOT)
        dx = tl.dot(q_dot, b_q, dx, input_precision=PRECISION)
        if NORMALIZE:
            x = row_block(p_k, o_ck, m_r, i, K, BK).to(ACC)
            along += tl.sum(x * dx, axis=1)
            store_rows(p_raw, o_c * K, m_r, i, dx, K, BK)
        else:
            store_rows(p_dk, o_c * (HV * K), m_r, i, dx, K, BK)
    if NORMALIZE:
        through_norm(
            p_dk, o_c * (HV * K), p_k, o_ck, p_raw, o_c * K, m_r, rk, along, K, BK, ACC
        )  # fmt: skip
    if DECAY:
        # Pairs of rows with the states at both ends of the chunk, and of these with each other.
        before = tl.load(p_f + 3 * C + Q + o_q - 1, mask=o_q > 0, other=1.0).to(ACC)
        w_first = tl.load(p_after_c).to(ACC) * (b_beta * rk * x_first)[None, :]
        b_da -= before * tl.sum(w_first, axis=1)
        w_last = tl.load(p_before, mask=m_before, other=0.0).to(ACC)
        w_last = tl.sum(w_last * (b_beta * rk * x_last)[None, :], axis=1)
        tail_q = tl.load(p_f + C + o_q * NH, mask=o_q * NH < C, other=1.0).to(ACC)
        b_da += tail_q * (w_last + before * tl.sum(s_ds, axis=0))
        p_da = ddecay + token * HV + i_h + o_q * HV
        tl.store(p_da, b_da.to(ddecay.dtype.element_ty), mask=m_q)
