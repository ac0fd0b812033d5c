# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the state-space dual's gradient, by chunk; the equations are in the README.

Each matrix that is needed in both orientations comes from two dots or two scans: a transposed
accumulator never feeds a dot.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from .._core.kernels_chunks import inside, products, row_block, store_rows
from .kernels_fwd import RUNTIME, decays, own_chunk


@triton.jit
def gates_from(p, o_c, left, H: tl.constexpr, ACC: tl.constexpr):
    """[t, i]: the decay from token t to token i >= t of a chunk, else 0."""
    alpha = decays(p, o_c, left, 0, H, ACC)
    g = tl.cumprod(tl.where(o_c[:, None] < o_c[None, :], alpha[None, :], 1.0), axis=1)
    return tl.where(o_c[:, None] > o_c[None, :], 0.0, g)


@triton.jit
def gates_before(p, o_c, left, H: tl.constexpr, ACC: tl.constexpr):
    """[t, j]: the decay from token j < t to token t - 1 of a chunk, else 0."""
    before = decays(p, o_c, left, -1, H, ACC)
    g = tl.cumprod(tl.where(o_c[:, None] > o_c[None, :] + 1, before[:, None], 1.0), axis=0)
    return tl.where(o_c[:, None] > o_c[None, :], g, 0.0)


@triton.jit
def tails(p, o_c, left, H: tl.constexpr, ACC: tl.constexpr):
    """[t]: the decay from token t to the end of its chunk."""
    return tl.cumprod(decays(p, o_c, left, 1, H, ACC), axis=0, reverse=True)


@triton.jit(do_not_specialize=RUNTIME)
def write_gradients(
    x, b, c, a, delta, skip, dy, dstates, cu_seqlens,
    dx, da, ddelta, dskip,
    NS, T,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    PACKED: tl.constexpr, DELTA: tl.constexpr, SKIP: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dX = delta ((CB' * G)'dY + G_C (B dS)) + D dY; of da what pairs of the chunk's tokens give.

    That is da_t = sum over j < t <= i of G[i, t] W[i, j] G[t - 1, j], W = (dY X' delta) * CB'.
    """
    i_slot, i_h, o_h, o_g, left = own_chunk(cu_seqlens, NS, T, H, G, C, PACKED)
    if left <= 0:
        if SKIP:
            tl.store(dskip + i_slot * H + i_h, 0.0)  # an unused slot is summed too
        return
    o_c = tl.arange(0, C)
    m_c = o_c < left
    o_r = o_c * (G * N)
    o_x = o_c * (H * P)
    p_b = b + o_g * N
    p_c = c + o_g * N
    p_x = x + o_h * P
    p_dy = dy + o_h * P
    p_ds = dstates + (i_slot * H + i_h) * N * P
    p_a = a + o_h
    p_delta = delta + o_h + o_c * H
    lower = o_c[:, None] > o_c[None, :]

    # Pairs, rows j and columns i >= j: x_j . dy_i and B_j . C_i.
    w = products(p_x, p_dy, o_x, o_x, m_c, m_c, P, BP, ACC, DOT, PRECISION)
    if SKIP:
        on_diagonal = o_c[:, None] == o_c[None, :]
        total = tl.sum(tl.sum(tl.where(on_diagonal, w, 0.0), axis=1), axis=0)
        tl.store(dskip + i_slot * H + i_h, total.to(dskip.dtype.element_ty))
    if DELTA:
        w *= tl.load(p_delta, mask=m_c, other=0.0).to(ACC)[:, None]
    pairs = products(p_b, p_c, o_r, o_r, m_c, m_c, N, BN, ACC, DOT, PRECISION)
    pairs = tl.where(lower, 0.0, pairs)
    w = (w * pairs).to(DOT)
    w = tl.dot(gates_before(p_a, o_c, left, H, ACC).to(DOT), w, input_precision=PRECISION)
    gates = gates_from(p_a, o_c, left, H, ACC)
    b_da = tl.sum(gates * w, axis=1)
    tl.store(da + o_h + o_c * H, b_da.to(da.dtype.element_ty), mask=m_c)
    pairs = (pairs * gates).to(DOT)

    b_ddelta = tl.zeros([C], dtype=ACC)
    for i_p in tl.range(0, P, BP, disable_licm=True):
        du = tl.zeros([C, BP], dtype=ACC)
        for i_n in tl.range(0, N, BN, disable_licm=True):
            o_n = i_n + tl.arange(0, BN)
            b_ds = row_block(p_ds, o_n * P, inside(o_n, N, BN), i_p, P, BP).to(DOT)
            b_b = row_block(p_b, o_r, m_c, i_n, N, BN).to(DOT)
            du = tl.dot(b_b, b_ds, du, input_precision=PRECISION)
        b_dy = row_block(p_dy, o_x, m_c, i_p, P, BP)
        du *= tails(p_a, o_c, left, H, ACC)[:, None]
        du = tl.dot(pairs, b_dy.to(DOT), du, input_precision=PRECISION)
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


@triton.jit(do_not_specialize=RUNTIME)
def group_gradients(
    x, b, c, a, delta, dy, states, dstates, cu_seqlens,
    db, dc, da,
    NS, T,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    PACKED: tl.constexpr, DELTA: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dC = E B + g (dY S'),  dB = E'C + G_C delta (X dS'),  with E = (dY X' delta) * G.

    One head's part of either. Adds to da what pairs with the states at both ends give.
    """
    i_slot, i_h, o_h, o_g, left = own_chunk(cu_seqlens, NS, T, H, G, C, PACKED)
    if left <= 0:
        return
    o_c = tl.arange(0, C)
    m_c = o_c < left
    o_r = o_c * (G * N)
    o_x = o_c * (H * P)
    p_b = b + o_g * N
    p_c = c + o_g * N
    p_x = x + o_h * P
    p_dy = dy + o_h * P
    p_s = states + (i_slot * H + i_h) * N * P
    p_ds = dstates + (i_slot * H + i_h) * N * P
    p_a = a + o_h

    alpha = decays(p_a, o_c, left, 0, H, ACC)
    e = products(p_dy, p_x, o_x, o_x, m_c, m_c, P, BP, ACC, DOT, PRECISION)
    g = alpha[:, None] * gates_before(p_a, o_c, left, H, ACC)
    e = tl.where(o_c[:, None] == o_c[None, :], e, tl.where(o_c[:, None] > o_c[None, :], e * g, 0.0))
    e_t = products(p_x, p_dy, o_x, o_x, m_c, m_c, P, BP, ACC, DOT, PRECISION)
    e_t = tl.where(o_c[:, None] > o_c[None, :], 0.0, e_t * gates_from(p_a, o_c, left, H, ACC))
    head = tl.cumprod(alpha, axis=0)
    tail = tails(p_a, o_c, left, H, ACC)
    b_delta = tl.full([C], 1.0, dtype=ACC)
    if DELTA:
        b_delta = tl.load(delta + o_h + o_c * H, mask=m_c, other=0.0).to(ACC)
        e *= b_delta[None, :]
        e_t *= b_delta[:, None]
    e = e.to(DOT)
    e_t = e_t.to(DOT)
    w_first = tl.zeros([C], dtype=ACC)
    w_last = tl.zeros([C], dtype=ACC)
    s_ds = tl.zeros([BN], dtype=ACC)
    for i_n in tl.range(0, N, BN, disable_licm=True):
        o_n = i_n + tl.arange(0, BN)
        m_n = inside(o_n, N, BN)
        b_b = row_block(p_b, o_r, m_c, i_n, N, BN)
        b_c = row_block(p_c, o_r, m_c, i_n, N, BN)
        y_s = products(p_dy, p_s, o_x, o_n * P, m_c, m_n, P, BP, ACC, DOT, PRECISION)
        w_first += tl.sum(b_c.to(ACC) * y_s, axis=1)
        y_s = tl.dot(e, b_b.to(DOT), head[:, None] * y_s, input_precision=PRECISION)
        store_rows(dc + o_h * N, o_c * (H * N), m_c, i_n, y_s, N, BN)
        x_s = products(p_x, p_ds, o_x, o_n * P, m_c, m_n, P, BP, ACC, DOT, PRECISION)
        w_last += tl.sum(b_b.to(ACC) * x_s, axis=1)
        x_s = tl.dot(e_t, b_c.to(DOT), (tail * b_delta)[:, None] * x_s, input_precision=PRECISION)
        store_rows(db + o_h * N, o_c * (H * N), m_c, i_n, x_s, N, BN)
        for i_p in tl.range(0, P, BP, disable_licm=True):
            b_s = row_block(p_s, o_n * P, m_n, i_p, P, BP).to(ACC)
            s_ds += tl.sum(b_s * row_block(p_ds, o_n * P, m_n, i_p, P, BP).to(ACC), axis=1)

    # Pairs of the chunk with the states at its two ends, and of these with each other.
    w_last *= b_delta
    p_da = da + o_h + o_c * H
    b_da = tl.load(p_da, mask=m_c, other=0.0).to(ACC)
    b_da += tail * tl.sum(gates_before(p_a, o_c, left, H, ACC) * w_last[None, :], axis=1)
    to_first = tl.sum(gates_from(p_a, o_c, left, H, ACC) * w_first[None, :], axis=1)
    before = tl.cumprod(decays(p_a, o_c, left, -1, H, ACC), axis=0)
    b_da += before * (to_first + tail * tl.sum(s_ds, axis=0))
    tl.store(p_da, b_da.to(da.dtype.element_ty), mask=m_c)
