# SPDX-License-Identifier: Apache-2.0
"""Triton kernels from inputs to outputs, forward and adjoint; the equations are in KERNELS.md."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..._core.kernels_chunks import bounds, first_slot, inside, locate, row_block
from ..kernels_pairs import load_pair, plane, product, store_pair, then, write_planes


@triton.jit
def chunk_at(
    cu_seqlens, i_s, NS, T,
    H: tl.constexpr, PACKED: tl.constexpr, BACKWARDS: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Of the chunk in slot `i_s`: where its first token lies, and how many it has."""
    i_n, i_c = locate(cu_seqlens, i_s, NS, T, BT, PACKED)
    start, length = bounds(cu_seqlens, i_n, T, PACKED)
    row = start + i_c * BT
    if BACKWARDS:
        row = start + length - 1 - i_c * BT
    return row * H, tl.maximum(tl.minimum(length - i_c * BT, BT), 0).to(tl.int32)


@triton.jit
def project(
    x, weights, o_x, m_x, o_p, m_p,
    H: tl.constexpr, P: tl.constexpr, BK: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """X W', real and imaginary part, of rows of x and of planes of weights [2, P, H]."""
    re = tl.zeros([o_x.shape[0], o_p.shape[0]], ACC)
    im = re
    for i in tl.range(0, H, BK, disable_licm=True):
        b_x = row_block(x, o_x, m_x, i, H, BK).to(ACC)
        w_re = row_block(weights, o_p * H, m_p, i, H, BK)
        w_im = row_block(weights + P * H, o_p * H, m_p, i, H, BK)
        re = tl.dot(b_x, tl.trans(w_re), re, input_precision=PRECISION)
        im = tl.dot(b_x, tl.trans(w_im), im, input_precision=PRECISION)
    return re, im


@triton.jit
def power(powers, o_k, m_k, o_p, m_p, P: tl.constexpr, CONJ: tl.constexpr):
    """a^k for k in the column `o_k`, or its conjugate: [BT, BP]."""
    o = o_k * (2 * P) + o_p[None, :]
    m = m_k & m_p[None, :]
    re, im = plane(powers, o, m, 0, P), plane(powers, o, m, 1, P)
    return re, -im if CONJ else im


@triton.jit
def scan(
    v_re, v_im, powers, entering, o_t, tokens, o_p, m_p, P: tl.constexpr, ADJOINT: tl.constexpr
):
    """x_t = a x_t-1 + v_t through a chunk from the state that enters; the adjoint the other way.

    What enters the adjoint is not multiplied by a* before it is added.
    """
    # Row 1 of the table, to be broadcast in registers.
    a_re = plane(powers, 2 * P + o_p, m_p, 0, P)[None, :]
    a_im = plane(powers, 2 * P + o_p, m_p, 1, P)[None, :]
    a_re = tl.broadcast_to(a_re, v_re.shape)
    a_im = tl.broadcast_to(-a_im if ADJOINT else a_im, v_re.shape)
    _, _, x_re, x_im = tl.associative_scan((a_re, a_im, v_re, v_im), 0, then, reverse=ADJOINT)
    o_k = tokens - 1 - o_t if ADJOINT else o_t + 1
    m_t = o_t < tokens
    a_re, a_im = power(powers, o_k, m_t, o_p, m_p, P, ADJOINT)
    e_re, e_im = plane(entering, o_p, m_p, 0, P), plane(entering, o_p, m_p, 1, P)
    e_re, e_im = product(a_re, a_im, e_re[None, :], e_im[None, :])
    # Slots without a chunk hold anything.
    return x_re + tl.where(m_t, e_re, 0.0), x_im + tl.where(m_t, e_im, 0.0)


@triton.jit(do_not_specialize=["NS", "T"])
def chunk_states(
    u, into, powers, cu_seqlens,
    sums,
    NS, T,
    H: tl.constexpr, P: tl.constexpr,
    PACKED: tl.constexpr, BACKWARDS: tl.constexpr, ADJOINT: tl.constexpr,
    BT: tl.constexpr, BP: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state that leaves it. A program takes a chunk and BP states."""
    ACC: tl.constexpr = sums.dtype.element_ty
    STEP: tl.constexpr = -H if BACKWARDS else H
    blocks = tl.cdiv(P, BP)
    i_s = (tl.program_id(0) // blocks).to(tl.int64)
    o_p = tl.program_id(0) % blocks * BP + tl.arange(0, BP)
    m_p = inside(o_p, P, BP)
    o_t = tl.arange(0, BT)[:, None]
    o_u, tokens = chunk_at(cu_seqlens, i_s, NS, T, H, PACKED, BACKWARDS, BT)
    o_x = tl.arange(0, BT)
    v_re, v_im = project(
        u + o_u, into, o_x * STEP, o_x < tokens, o_p, m_p, H, P, BK, ACC, PRECISION
    )  # fmt: skip
    o_k = o_t + 1 if ADJOINT else tokens - 1 - o_t
    a_re, a_im = power(powers, o_k, o_t < tokens, o_p, m_p, P, ADJOINT)
    v_re, v_im = product(a_re, a_im, v_re, v_im)
    s_re, s_im = tl.sum(v_re, axis=0), tl.sum(v_im, axis=0)
    write_planes(sums, i_s * (2 * P) + o_p, m_p, s_re, s_im, P)


@triton.jit(do_not_specialize=["T"])
def join(
    sums, powers, span, h0, cu_seqlens,
    states, hT,
    T,
    P: tl.constexpr,
    PACKED: tl.constexpr, ADJOINT: tl.constexpr,
    BT: tl.constexpr, R: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """The states that enter chunks, R chunks at a time, in float64: rounding would add up.

    What is carried from R chunks to the next is rounded, so that a sequence cut there and handed
    over goes on with the same numbers. A program takes a sequence and BP states.
    """
    KEPT: tl.constexpr = hT.dtype.element_ty
    blocks = tl.cdiv(P, BP)
    i_n = (tl.program_id(0) // blocks).to(tl.int64)
    o_p = (tl.program_id(0) % blocks * BP + tl.arange(0, BP))[None, :]
    m_p = o_p < P
    o_r = tl.arange(0, R)[:, None]
    _start, length = bounds(cu_seqlens, i_n, T, PACKED)
    slot = first_slot(cu_seqlens, i_n, T, BT, PACKED)
    chunks = (length + BT - 1) // BT
    o_n = i_n * P + o_p
    if h0 is not None:
        h_re, h_im = load_pair(h0, o_n, m_p)
    else:
        h_re = tl.zeros([1, BP], KEPT)
        h_im = h_re
    full_re, full_im = plane(span, o_p, m_p, 0, P), plane(span, o_p, m_p, 1, P)
    for i in tl.range(0, chunks, R):
        walked = i + o_r
        i_c = chunks - 1 - walked if ADJOINT else walked
        there = walked < chunks
        tokens = tl.where(there, tl.minimum(length - i_c * BT, BT), 0)
        o_a = tokens * (2 * P) + o_p
        a_re, a_im = plane(powers, o_a, m_p, 0, P), plane(powers, o_a, m_p, 1, P)
        a_re = tl.where(tokens == BT, full_re, a_re.to(tl.float64))
        a_im = tl.where(tokens == BT, full_im, a_im.to(tl.float64))
        if ADJOINT:
            a_im = -a_im
        o_s = (slot + i_c) * (2 * P) + o_p
        s_re = plane(sums, o_s, there & m_p, 0, P).to(tl.float64)
        s_im = plane(sums, o_s, there & m_p, 1, P).to(tl.float64)
        a_re, a_im, s_re, s_im = tl.associative_scan((a_re, a_im, s_re, s_im), 0, then)
        # Each row leaves for the next chunk; the group's first chunk gets what was carried.
        x_re, x_im = product(a_re, a_im, h_re.to(tl.float64), h_im.to(tl.float64))
        x_re += s_re
        x_im += s_im
        o_s += -2 * P if ADJOINT else 2 * P
        m_s = (o_r < R - 1) & (walked < chunks - 1) & m_p
        write_planes(states, o_s, m_s, x_re, x_im, P)
        o_s = (slot + (chunks - 1 - i if ADJOINT else i)) * (2 * P) + o_p
        write_planes(states, o_s, m_p, h_re, h_im, P)
        h_re = tl.sum(tl.where(o_r == R - 1, x_re, 0.0), axis=0, keep_dims=True).to(KEPT)
        h_im = tl.sum(tl.where(o_r == R - 1, x_im, 0.0), axis=0, keep_dims=True).to(KEPT)
    store_pair(hT, o_n, m_p, h_re, h_im)


@triton.jit(do_not_specialize=["NS", "T"])
def chunk_outputs(
    u, into, out_of, skip, powers, states, cu_seqlens,
    y,
    NS, T,
    H: tl.constexpr, P: tl.constexpr,
    PACKED: tl.constexpr, BACKWARDS: tl.constexpr, ADJOINT: tl.constexpr,
    BT: tl.constexpr, BP: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """y_t = out_of x_t + D u_t, BP states at a time. A program takes a chunk and BH channels."""
    ACC: tl.constexpr = states.dtype.element_ty
    STEP: tl.constexpr = -H if BACKWARDS else H
    blocks = tl.cdiv(H, BH)
    i_s = (tl.program_id(0) // blocks).to(tl.int64)
    i_h = tl.program_id(0) % blocks * BH
    o_t = tl.arange(0, BT)[:, None]
    o_x = tl.arange(0, BT)
    o_u, tokens = chunk_at(cu_seqlens, i_s, NS, T, H, PACKED, BACKWARDS, BT)
    u += o_u
    m_x = o_x < tokens

    b_y = tl.zeros([BT, BH], ACC)
    if skip is not None:
        o_h = i_h + tl.arange(0, BH)
        b_skip = tl.load(skip + o_h, mask=inside(o_h, H, BH), other=0.0).to(ACC)
        b_y += b_skip * row_block(u, o_x * STEP, m_x, i_h, H, BH).to(ACC)
    for i in tl.range(0, P, BP, disable_licm=True):
        o_p = i + tl.arange(0, BP)
        m_p = inside(o_p, P, BP)
        x_re, x_im = project(u, into, o_x * STEP, m_x, o_p, m_p, H, P, BK, ACC, PRECISION)
        x_re, x_im = scan(
            x_re, x_im, powers, states + i_s * (2 * P), o_t, tokens, o_p, m_p, P, ADJOINT
        )  # fmt: skip
        w_re = row_block(out_of, o_p * H, m_p, i_h, H, BH)
        w_im = row_block(out_of + P * H, o_p * H, m_p, i_h, H, BH)
        b_y = tl.dot(x_re, w_re, b_y, input_precision=PRECISION)
        b_y = tl.dot(x_im, w_im, b_y, input_precision=PRECISION)
    o_y = o_t * STEP + i_h + tl.arange(0, BH)[None, :]
    m_y = (o_t < tokens) & inside(i_h + tl.arange(0, BH), H, BH)[None, :]
    tl.store(y + o_u + o_y, b_y.to(y.dtype.element_ty), mask=m_y)
