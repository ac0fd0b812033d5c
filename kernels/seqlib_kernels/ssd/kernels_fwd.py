# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the state-space dual: sweeps and outputs; the equations are in the README."""
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
def own_chunk(
    cu_seqlens, NS, T, H: tl.constexpr, G: tl.constexpr, C: tl.constexpr, PACKED: tl.constexpr
):
    """The slot and head of a program [slot, head], and how many tokens its chunk has, if any.

    Between them, where its first token lies in arrays with H heads, and in those with G groups.
    """
    i_slot = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    i_s, i_c = locate(cu_seqlens, i_slot, NS, T, C, PACKED)
    start, length = bounds(cu_seqlens, i_s, T, PACKED)
    first, left, _ = chunk_at(start, length, i_c, C)
    return i_slot, i_h, first * H + i_h, first * G + i_h // (H // G), left


@triton.jit
def decays(p, o_c, left, SHIFT: tl.constexpr, H: tl.constexpr, ACC: tl.constexpr):
    """The decay SHIFT tokens later for each token of a chunk, 1 outside of it."""
    o = o_c + SHIFT
    return tl.load(p + o * H, mask=(o >= 0) & (o < left), other=1.0).to(ACC)


@triton.jit
def walk(
    i_sh, x, b, a, delta, s0, cu_seqlens,
    states, sT,
    T,
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
def forward_sweep(
    x, b, a, delta, h0, cu_seqlens,
    states, hT,
    NS, T,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    PACKED: tl.constexpr, DELTA: tl.constexpr, INITIAL: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state before each chunk, and the last one."""
    walk(
        tl.program_id(0).to(tl.int64), x, b, a, delta, h0, cu_seqlens, states, hT, T,
        H, G, P, N, C, BP, BN, PACKED, DELTA, INITIAL, True, False, ACC, DOT, PRECISION,
    )  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME)
def both_sweeps(
    x, b, c, a, delta, h0, dy, dhT, cu_seqlens,
    states, dstates, dh0,
    NS, T,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    PACKED: tl.constexpr, DELTA: tl.constexpr, INITIAL: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state before each chunk again, and, in other programs, the gradient of that after it."""
    i_sh = tl.program_id(0).to(tl.int64)
    if i_sh < NS * H:
        walk(
            i_sh, x, b, a, delta, h0, cu_seqlens, states, dh0, T,
            H, G, P, N, C, BP, BN, PACKED, DELTA, INITIAL, False, False, ACC, DOT, PRECISION,
        )  # fmt: skip
    else:
        walk(
            i_sh - NS * H, dy, c, a, delta, dhT, cu_seqlens, dstates, dh0, T,
            H, G, P, N, C, BP, BN, PACKED, DELTA, True, True, True, ACC, DOT, PRECISION,
        )  # fmt: skip


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
    i_slot, i_h, o_h, o_g, left = own_chunk(cu_seqlens, NS, T, H, G, C, PACKED)
    if left <= 0:
        return
    o_c = tl.arange(0, C)
    m_c = o_c < left
    o_r = o_c * (G * N)
    p_b = b + o_g * N
    p_c = c + o_g * N
    p_x = x + o_h * P
    p_s = states + (i_slot * H + i_h) * N * P

    alpha = decays(a + o_h, o_c, left, 0, H, ACC)
    head = tl.cumprod(alpha, axis=0)
    pairs = products(p_c, p_b, o_r, o_r, m_c, m_c, N, BN, ACC, DOT, PRECISION)
    pairs *= tl.cumprod(tl.where(o_c[:, None] > o_c[None, :], alpha[:, None], 1.0), axis=0)
    if DELTA:
        pairs *= tl.load(delta + o_h + o_c * H, mask=m_c, other=0.0).to(ACC)[None, :]
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
        store_rows(y + o_h * P, o_c * (H * P), m_c, i_p, out, P, BP)
