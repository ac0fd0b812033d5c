# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the chunked state-space dual; the equations are in the README."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .._core.kernels_chunks import (
    bounds,
    first_slot,
    inside,
    locate,
    products,
    row_block,
    store_rows,
)

RUNTIME = ["NS", "T"]  # lengths never choose the code


@triton.jit
def chunk_at(start, length, i_c, C: tl.constexpr):
    """A chunk's first token, how many of its tokens its sequence has, and which ones."""
    first = (start * 0 + i_c) * C  # 64 bits, also where i_c counts in 32
    left = tl.minimum(length - first, C).to(tl.int32)
    return start + first, left, tl.arange(0, C) < left


@triton.jit
def decays(p, o_c, left, SHIFT: tl.constexpr, H: tl.constexpr, ACC: tl.constexpr):
    """The decay SHIFT tokens later for each token of a chunk, 1 outside of it."""
    o = o_c + SHIFT
    return tl.load(p + o * H, mask=(o >= 0) & (o < left), other=1.0).to(ACC)


@triton.jit(do_not_specialize=RUNTIME)
def sweep(
    x, b, a, delta, s0, cu_seqlens,
    states, sT,
    NS, T,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    PACKED: tl.constexpr, DELTA: tl.constexpr, INITIAL: tl.constexpr, FINAL: tl.constexpr,
    REVERSE: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S = g_C S + B'(G_C delta X) over chunks; writes S before each of them.

    With REVERSE, on C and dY in the place of B and X, dS = g_C dS + C'(g dY) from the last chunk
    to the first; writes dS after each of them. A program holds one [BN, BP] tile.
    """
    i_sh = tl.program_id(0).to(tl.int64)
    i_s = i_sh // H
    i_h = i_sh % H
    start, length = bounds(cu_seqlens, i_s, T, PACKED)
    slot = first_slot(cu_seqlens, i_s, T, C, PACKED)
    o_c = tl.arange(0, C)
    i_p = tl.program_id(1) * BP
    i_n = tl.program_id(2) * BN
    o_p = i_p + tl.arange(0, BP)
    o_n = i_n + tl.arange(0, BN)
    m_np = inside(o_n, N, BN)[:, None] & inside(o_p, P, BP)[None, :]
    o_np = o_n[:, None] * P + o_p[None, :]  # as chunks keep states
    o_pn = o_n[:, None] + o_p[None, :] * N  # as callers do

    s = tl.zeros([BN, BP], dtype=ACC)
    if INITIAL:
        s += tl.load(s0 + i_sh * P * N + o_pn, mask=m_np, other=0.0).to(ACC)
    chunks = ((length + C - 1) // C).to(tl.int32)
    for i in tl.range(0, chunks, disable_licm=True):
        i_c = i
        if REVERSE:
            i_c = chunks - 1 - i
        first, left, m_c = chunk_at(start, length, i_c, C)
        p_states = states + ((slot + i_c) * H + i_h) * N * P
        tl.store(p_states + o_np, s.to(states.dtype.element_ty), mask=m_np)
        alpha = decays(a + first * H + i_h, o_c, left, 0, H, ACC)
        if REVERSE:
            weight = tl.cumprod(alpha, axis=0)
            whole = tl.sum(tl.where(o_c == C - 1, weight, 0.0), axis=0)
        else:
            after = decays(a + first * H + i_h, o_c, left, 1, H, ACC)
            weight = tl.cumprod(after, axis=0, reverse=True)
            whole = tl.sum(tl.where(o_c == 0, alpha * weight, 0.0), axis=0)
            if DELTA:
                p_delta = delta + first * H + i_h + o_c * H
                weight *= tl.load(p_delta, mask=m_c, other=0.0).to(ACC)
        b_b = row_block(b + (first * G + i_h // (H // G)) * N, o_c * (G * N), m_c, i_n, N, BN)
        b_x = row_block(x + (first * H + i_h) * P, o_c * (H * P), m_c, i_p, P, BP)
        write = (weight[:, None] * b_x.to(ACC)).to(DOT)
        s = whole * s + tl.dot(tl.trans(b_b.to(DOT)), write, input_precision=PRECISION)
    if FINAL:
        tl.store(sT + i_sh * P * N + o_pn, s.to(sT.dtype.element_ty), mask=m_np)


@triton.jit(do_not_specialize=RUNTIME)
def chunk_outputs(
    x, b, c, a, delta, skip, states, cu_seqlens,
    y,
    NS, T,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    PACKED: tl.constexpr, DELTA: tl.constexpr, SKIP: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Y = g CS + (CB' * G) (delta X) + D X of one chunk and head."""
    i_slot = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    i_s, i_c = locate(cu_seqlens, i_slot, NS, T, C, PACKED)
    start, length = bounds(cu_seqlens, i_s, T, PACKED)
    if i_c * C >= length:
        return
    first, left, m_c = chunk_at(start, length, i_c, C)
    o_c = tl.arange(0, C)
    o_r = o_c * (G * N)
    p_b = b + (first * G + i_h // (H // G)) * N
    p_c = c + (first * G + i_h // (H // G)) * N
    p_x = x + (first * H + i_h) * P
    p_y = y + (first * H + i_h) * P
    p_s = states + (i_slot * H + i_h) * N * P

    alpha = decays(a + first * H + i_h, o_c, left, 0, H, ACC)
    head = tl.cumprod(alpha, axis=0)
    pairs = products(p_c, p_b, o_r, o_r, m_c, m_c, N, BN, ACC, DOT, PRECISION)
    pairs *= tl.cumprod(tl.where(o_c[:, None] > o_c[None, :], alpha[:, None], 1.0), axis=0)
    if DELTA:
        p_delta = delta + first * H + i_h + o_c * H
        pairs *= tl.load(p_delta, mask=m_c, other=0.0).to(ACC)[None, :]
    pairs = tl.where(o_c[:, None] >= o_c[None, :], pairs, 0.0).to(DOT)
    for i_p in tl.range(0, P, BP, disable_licm=True):
        out = tl.zeros([C, BP], dtype=ACC)
        for i_n in tl.range(0, N, BN, disable_licm=True):
            o_n = i_n + tl.arange(0, BN)
            b_s = row_block(p_s, o_n * P, inside(o_n, N, BN), i_p, P, BP).to(DOT)
            b_c = row_block(p_c, o_r, m_c, i_n, N, BN).to(DOT)
            out = tl.dot(b_c, b_s, out, input_precision=PRECISION)
        b_x = row_block(p_x, o_c * (H * P), m_c, i_p, P, BP)
        out = tl.dot(pairs, b_x.to(DOT), head[:, None] * out, input_precision=PRECISION)
        if SKIP:
            out += tl.load(skip + i_h).to(ACC) * b_x.to(ACC)
        store_rows(p_y, o_c * (H * P), m_c, i_p, out, P, BP)


@triton.jit(do_not_specialize=RUNTIME)
def chunk_gradients(
    x, b, c, a, delta, skip, dy, states, dstates, cu_seqlens,
    dx, db, dc, da, ddelta, dskip,
    NS, T,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    PACKED: tl.constexpr, DELTA: tl.constexpr, SKIP: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Every gradient of one chunk and head; heads of a group write their parts of db and dc.

    Each matrix that is needed in both orientations comes from two dots or two scans: a
    transposed accumulator never feeds a dot.
    """
    i_slot = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    i_s, i_c = locate(cu_seqlens, i_slot, NS, T, C, PACKED)
    start, length = bounds(cu_seqlens, i_s, T, PACKED)
    if i_c * C >= length:
        if SKIP:
            tl.store(dskip + i_slot * H + i_h, 0.0)  # an unused slot is summed too
        return
    first, left, m_c = chunk_at(start, length, i_c, C)
    o_c = tl.arange(0, C)
    o_r = o_c * (G * N)
    o_x = o_c * (H * P)
    o_h = first * H + i_h
    p_b = b + (first * G + i_h // (H // G)) * N
    p_c = c + (first * G + i_h // (H // G)) * N
    p_x = x + o_h * P
    p_dy = dy + o_h * P
    p_s = states + (i_slot * H + i_h) * N * P
    p_ds = dstates + (i_slot * H + i_h) * N * P
    p_delta = delta + o_h + o_c * H
    lower = o_c[:, None] > o_c[None, :]
    upper = o_c[:, None] < o_c[None, :]

    # Pairs, rows j and columns i >= j: x_j . dy_i, B_j . C_i, and the decay between them.
    x_dy = products(p_x, p_dy, o_x, o_x, m_c, m_c, P, BP, ACC, DOT, PRECISION)
    if SKIP:
        on_diagonal = o_c[:, None] == o_c[None, :]
        total = tl.sum(tl.sum(tl.where(on_diagonal, x_dy, 0.0), axis=1), axis=0)
        tl.store(dskip + i_slot * H + i_h, total.to(dskip.dtype.element_ty))
    if DELTA:
        x_dy *= tl.load(p_delta, mask=m_c, other=0.0).to(ACC)[:, None]
    bc = products(p_b, p_c, o_r, o_r, m_c, m_c, N, BN, ACC, DOT, PRECISION)
    alpha = decays(a + o_h, o_c, left, 0, H, ACC)
    gates_t = tl.cumprod(tl.where(upper, alpha[None, :], 1.0), axis=1)
    gates_t = tl.where(lower, 0.0, gates_t)
    # da_t: sum over j < t <= i of G[i, t] W[i, j] G[t - 1, j]; W pairs tokens without G.
    before = decays(a + o_h, o_c, left, -1, H, ACC)
    between = tl.cumprod(tl.where(o_c[:, None] > o_c[None, :] + 1, before[:, None], 1.0), axis=0)
    between = tl.where(lower, between, 0.0)  # [t, j]: G[t - 1, j]
    w = tl.where(lower, 0.0, x_dy * bc)
    w = tl.dot(between.to(DOT), w.to(DOT), input_precision=PRECISION)
    b_da = tl.sum(gates_t * w, axis=1)

    # dX = delta ((CB' * G)'dY + G_C (B dS)) + D dY
    after = decays(a + o_h, o_c, left, 1, H, ACC)
    tail = tl.cumprod(after, axis=0, reverse=True)
    pairs = tl.where(lower, 0.0, bc * gates_t).to(DOT)
    b_ddelta = tl.zeros([C], dtype=ACC)
    for i_p in tl.range(0, P, BP, disable_licm=True):
        du = tl.zeros([C, BP], dtype=ACC)
        for i_n in tl.range(0, N, BN, disable_licm=True):
            o_n = i_n + tl.arange(0, BN)
            b_ds = row_block(p_ds, o_n * P, inside(o_n, N, BN), i_p, P, BP).to(DOT)
            b_b = row_block(p_b, o_r, m_c, i_n, N, BN).to(DOT)
            du = tl.dot(b_b, b_ds, du, input_precision=PRECISION)
        b_dy = row_block(p_dy, o_x, m_c, i_p, P, BP)
        du = tl.dot(pairs, b_dy.to(DOT), tail[:, None] * du, input_precision=PRECISION)
        if DELTA:
            b_x = row_block(p_x, o_x, m_c, i_p, P, BP).to(ACC)
            b_ddelta += tl.sum(b_x * du, axis=1)
            du *= tl.load(p_delta, mask=m_c, other=0.0).to(ACC)[:, None]
        if SKIP:
            du += tl.load(skip + i_h).to(ACC) * b_dy.to(ACC)
        store_rows(dx + o_h * P, o_x, m_c, i_p, du, P, BP)
    if DELTA:
        p_ddelta = ddelta + o_h + o_c * H
        tl.store(p_ddelta, b_ddelta.to(ddelta.dtype.element_ty), mask=m_c)

    # dC = E B + g (dY S'),  dB = E'C + G_C delta (X dS'),  with E = dY (delta X)' * G
    head = tl.cumprod(alpha, axis=0)
    e_t = (x_dy * gates_t).to(DOT)
    e = products(p_dy, p_x, o_x, o_x, m_c, m_c, P, BP, ACC, DOT, PRECISION)
    e = tl.where(lower, e * alpha[:, None] * between, tl.where(upper, 0.0, e))
    reach = tail
    if DELTA:
        b_delta = tl.load(p_delta, mask=m_c, other=0.0).to(ACC)
        e *= b_delta[None, :]
        reach = tail * b_delta
    e = e.to(DOT)
    w_first = tl.zeros([C], dtype=ACC)
    w_last = tl.zeros([C], dtype=ACC)
    s_ds = tl.zeros([BN], dtype=ACC)
    for i_n in tl.range(0, N, BN, disable_licm=True):
        o_n = i_n + tl.arange(0, BN)
        m_n = inside(o_n, N, BN)
        dy_s = products(p_dy, p_s, o_x, o_n * P, m_c, m_n, P, BP, ACC, DOT, PRECISION)
        x_ds = products(p_x, p_ds, o_x, o_n * P, m_c, m_n, P, BP, ACC, DOT, PRECISION)
        for i_p in tl.range(0, P, BP, disable_licm=True):
            b_s = row_block(p_s, o_n * P, m_n, i_p, P, BP).to(ACC)
            s_ds += tl.sum(b_s * row_block(p_ds, o_n * P, m_n, i_p, P, BP).to(ACC), axis=1)
        b_b = row_block(p_b, o_r, m_c, i_n, N, BN)
        b_c = row_block(p_c, o_r, m_c, i_n, N, BN)
        w_first += tl.sum(b_c.to(ACC) * dy_s, axis=1)
        w_last += tl.sum(b_b.to(ACC) * x_ds, axis=1)
        dc_n = tl.dot(e, b_b.to(DOT), head[:, None] * dy_s, input_precision=PRECISION)
        store_rows(dc + o_h * N, o_c * (H * N), m_c, i_n, dc_n, N, BN)
        db_n = tl.dot(e_t, b_c.to(DOT), reach[:, None] * x_ds, input_precision=PRECISION)
        store_rows(db + o_h * N, o_c * (H * N), m_c, i_n, db_n, N, BN)

    # Pairs of the chunk with the states at its two ends, and of these with each other.
    if DELTA:
        w_last *= tl.load(p_delta, mask=m_c, other=0.0).to(ACC)
    b_da += tail * tl.sum(between * w_last[None, :], axis=1)
    to_first = tl.sum(gates_t * w_first[None, :], axis=1)
    b_da += tl.cumprod(before, axis=0) * (to_first + tail * tl.sum(s_ds, axis=0))
    tl.store(da + o_h + o_c * H, b_da.to(da.dtype.element_ty), mask=m_c)
