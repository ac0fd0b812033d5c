# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the joint attention: local weights times rows plus a head times the memory."""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl

from ..._core.kernels_chunks import inside, products, row_block, store_rows
from ..._core.kernels_math import sigmoid
from .kernels_heads import own_rows

RUNTIME = ["NS", "T"]  # lengths never choose the code


@triton.jit
def rectified(
    p_r, p_k, o_r, o_k, left,
    S: tl.constexpr, G: tl.constexpr, BS: tl.constexpr, CAUSAL: tl.constexpr,
    TRANSPOSED: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """relu(Qq Kq' / G), frames o_r by frames o_k of a group; TRANSPOSED, rows are keys.

    p_r and p_k point to the heads of rows and columns. A NaN stays one.
    """
    row = 4 * S
    x = products(p_r, p_k, o_r * row, o_k * row, o_r < left, o_k < left, S, BS, ACC, ACC, PRECISION)
    x = tl.where(x < 0, 0.0, x * (1.0 / G))
    if CAUSAL:
        if TRANSPOSED:
            x = tl.where(o_k[None, :] >= o_r[:, None], x, 0.0)
        else:
            x = tl.where(o_r[:, None] >= o_k[None, :], x, 0.0)
    return x


@triton.jit
def kept(
    p_keep, o_r, o_k, left, down, right,
    KEEP_SCALE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Dropout's factors of frames o_r by frames o_k of a group, `down` and `right` apart."""
    mask = (o_r < left)[:, None] & (o_k < left)[None, :]
    offsets = o_r[:, None] * down + o_k[None, :] * right
    return tl.load(p_keep + offsets, mask=mask, other=0).to(ACC) * KEEP_SCALE


@triton.jit
def weights(
    p_heads, p_keep, o_r, o_k, left,
    S: tl.constexpr, G: tl.constexpr, BS: tl.constexpr, CAUSAL: tl.constexpr,
    KEEP: tl.constexpr, KEEP_SCALE: tl.constexpr, TRANSPOSED: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """P, frames o_r by frames o_k of a group; TRANSPOSED, P' with keys o_r and queries o_k."""
    p_q, p_k = p_heads, p_heads + 2 * S
    if TRANSPOSED:
        x = rectified(p_k, p_q, o_r, o_k, left, S, G, BS, CAUSAL, True, ACC, PRECISION)
    else:
        x = rectified(p_q, p_k, o_r, o_k, left, S, G, BS, CAUSAL, False, ACC, PRECISION)
    x *= x
    if KEEP:
        if TRANSPOSED:
            x *= kept(p_keep, o_r, o_k, left, 1, G, KEEP_SCALE, ACC)
        else:
            x *= kept(p_keep, o_r, o_k, left, G, 1, KEEP_SCALE, ACC)
    return x.to(DOT)


@triton.jit
def halves(
    p, p_x, a_v, a_u, o_k, m_k, i_e,
    E: tl.constexpr, BE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A += P X for the same columns of both halves of rows o_k of X."""
    b_v = row_block(p_x, o_k * (2 * E), m_k, i_e, E, BE).to(DOT)
    a_v = tl.dot(p, b_v, a_v, input_precision=PRECISION)
    b_u = row_block(p_x + E, o_k * (2 * E), m_k, i_e, E, BE).to(DOT)
    a_u = tl.dot(p, b_u, a_u, input_precision=PRECISION)
    return a_v, a_u


@triton.jit
def joint(
    whole, p_heads, p_x, p_memory, p_keep, o_r, i_r, left, i_e,
    S: tl.constexpr, E: tl.constexpr, G: tl.constexpr,
    BR: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    CAUSAL: tl.constexpr, KEEP: tl.constexpr, KEEP_SCALE: tl.constexpr, TRANSPOSED: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns i_e ... of both halves of P X + Lq M; TRANSPOSED, of P' X + Lk M.

    `whole` is P of all frames of the group where it has no more than BK; unread otherwise.
    """
    a_v = tl.zeros([BR, BE], dtype=ACC)
    a_u = tl.zeros([BR, BE], dtype=ACC)
    if BK >= G:
        o_k = tl.arange(0, BK)
        a_v, a_u = halves(whole, p_x, a_v, a_u, o_k, o_k < left, i_e, E, BE, DOT, PRECISION)
    else:
        low = 0
        high = left
        if CAUSAL:
            if TRANSPOSED:
                low = i_r // BK * BK
            else:
                high = tl.minimum(left, i_r + BR)
        for i_k in tl.range(low, high, BK, disable_licm=True):
            o_k = i_k + tl.arange(0, BK)
            p = weights(
                p_heads, p_keep, o_r, o_k, left, S, G, BS, CAUSAL, KEEP, KEEP_SCALE, TRANSPOSED,
                ACC, DOT, PRECISION,
            )  # fmt: skip
            a_v, a_u = halves(p, p_x, a_v, a_u, o_k, o_k < left, i_e, E, BE, DOT, PRECISION)
    p_l = p_heads + (3 * S if TRANSPOSED else S)
    for i_s in tl.range(0, S, BS, disable_licm=True):
        o_s = i_s + tl.arange(0, BS)
        b_l = row_block(p_l, o_r * (4 * S), o_r < left, i_s, S, BS).to(DOT)
        m_s = inside(o_s, S, BS)
        a_v, a_u = halves(b_l, p_memory, a_v, a_u, o_s, m_s, i_e, E, BE, DOT, PRECISION)
    return a_v, a_u


@triton.jit
def own_tile(
    heads, keep, memory, cu_seqlens, NS, T,
    S: tl.constexpr, E: tl.constexpr, G: tl.constexpr, BR: tl.constexpr,
    PACKED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """A program's first row and frames in the group; its group's heads, dropout and memory."""
    i_slot, i_n, row, _, left, i_r = own_rows(cu_seqlens, NS, T, G, BR, PACKED)
    place = i_n
    if CAUSAL:
        place = i_slot
    return row, left, i_r, heads + row * 4 * S, keep + row * G, memory + place * S * 2 * E


@triton.jit(do_not_specialize=RUNTIME)
def attend(
    heads, z, memory, keep, do, cu_seqlens,
    o, da, dz,
    NS, T,
    S: tl.constexpr, E: tl.constexpr, G: tl.constexpr,
    BR: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    COLUMNS: tl.constexpr, PACKED: tl.constexpr, CAUSAL: tl.constexpr,
    KEEP: tl.constexpr, KEEP_SCALE: tl.constexpr, GRADIENT: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """O = (A_u V) sigmoid(A_v U) of BR frames and COLUMNS of E; with GRADIENT, dA of it instead,
    and what of dZ comes through the gate."""
    row, left, i_r, p_heads, p_keep, p_memory = own_tile(
        heads, keep, memory, cu_seqlens, NS, T, S, E, G, BR, PACKED, CAUSAL
    )
    if i_r >= left:
        return
    o_r = i_r + tl.arange(0, BR)
    m_r = o_r < left
    whole = 0
    if BK >= G:
        whole = weights(
            p_heads, p_keep, o_r, tl.arange(0, BK), left, S, G, BS, CAUSAL, KEEP, KEEP_SCALE,
            False, ACC, DOT, PRECISION,
        )  # fmt: skip
    p_z = z + row * 2 * E
    o_z = o_r * (2 * E)
    columns = tl.program_id(2) * COLUMNS
    for i_e in tl.range(columns, tl.minimum(columns + COLUMNS, E), BE, disable_licm=True):
        a_v, a_u = joint(
            whole, p_heads, p_z, p_memory, p_keep, o_r, i_r, left, i_e, S, E, G, BR, BK, BE, BS,
            CAUSAL, KEEP, KEEP_SCALE, False, ACC, DOT, PRECISION,
        )  # fmt: skip
        v = row_block(p_z, o_z, m_r, i_e, E, BE).to(ACC)
        u = row_block(p_z + E, o_z, m_r, i_e, E, BE).to(ACC)
        gate = sigmoid(a_v * u)
        if GRADIENT:
            d = row_block(do + row * E, o_r * E, m_r, i_e, E, BE).to(ACC) * gate
            q = d * a_u * v * (1.0 - gate)
            store_rows(da + row * 2 * E, o_z, m_r, i_e, q * u, E, BE)
            store_rows(da + row * 2 * E + E, o_z, m_r, i_e, d * v, E, BE)
            store_rows(dz + row * 2 * E, o_z, m_r, i_e, d * a_u, E, BE)
            store_rows(dz + row * 2 * E + E, o_z, m_r, i_e, q * a_v, E, BE)
        else:
            store_rows(o + row * E, o_r * E, m_r, i_e, a_u * v * gate, E, BE)


@triton.jit(do_not_specialize=RUNTIME)
def z_gradients(
    heads, da, dmemory, keep, cu_seqlens,
    dz,
    NS, T,
    S: tl.constexpr, E: tl.constexpr, G: tl.constexpr,
    BR: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    COLUMNS: tl.constexpr, PACKED: tl.constexpr, CAUSAL: tl.constexpr,
    KEEP: tl.constexpr, KEEP_SCALE: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dZ += P' dA + Lk dM of BR frames and COLUMNS of both halves."""
    row, left, i_r, p_heads, p_keep, p_memory = own_tile(
        heads, keep, dmemory, cu_seqlens, NS, T, S, E, G, BR, PACKED, CAUSAL
    )
    if i_r >= left:
        return
    o_r = i_r + tl.arange(0, BR)
    m_r = o_r < left
    whole = 0
    if BK >= G:
        whole = weights(
            p_heads, p_keep, o_r, tl.arange(0, BK), left, S, G, BS, CAUSAL, KEEP, KEEP_SCALE,
            True, ACC, DOT, PRECISION,
        )  # fmt: skip
    p_dz = dz + row * 2 * E
    o_z = o_r * (2 * E)
    columns = tl.program_id(2) * COLUMNS
    for i_e in tl.range(columns, tl.minimum(columns + COLUMNS, E), BE, disable_licm=True):
        d_v, d_u = joint(
            whole, p_heads, da + row * 2 * E, p_memory, p_keep, o_r, i_r, left, i_e,
            S, E, G, BR, BK, BE, BS, CAUSAL, KEEP, KEEP_SCALE, True, ACC, DOT, PRECISION,
        )  # fmt: skip
        d_v += row_block(p_dz, o_z, m_r, i_e, E, BE).to(ACC)
        d_u += row_block(p_dz + E, o_z, m_r, i_e, E, BE).to(ACC)
        store_rows(p_dz, o_z, m_r, i_e, d_v, E, BE)
        store_rows(p_dz + E, o_z, m_r, i_e, d_u, E, BE)


@triton.jit(do_not_specialize=RUNTIME)
def score_gradients(
    heads, z, da, keep, cu_seqlens,
    dx,
    NS, T,
    S: tl.constexpr, E: tl.constexpr, G: tl.constexpr,
    BR: tl.constexpr, BQ: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    PACKED: tl.constexpr, CAUSAL: tl.constexpr, KEEP: tl.constexpr, KEEP_SCALE: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """2 relu(X) (dA Z') / G, the gradient of Qq Kq', of BR queries by BQ keys of a group."""
    _, _, row, _, left, i_r = own_rows(cu_seqlens, NS, T, G, BR, PACKED)
    if i_r >= left:
        return
    i_k = tl.program_id(2) * BQ
    o_r = i_r + tl.arange(0, BR)
    o_k = i_k + tl.arange(0, BQ)
    p_heads = heads + row * 4 * S
    d = tl.zeros([BR, BQ], dtype=ACC)
    last = i_r + BR - 1 if CAUSAL else left
    if (i_k < left) & (i_k <= last):
        d = products(
            da + row * 2 * E, z + row * 2 * E, o_r * (2 * E), o_k * (2 * E), o_r < left,
            o_k < left, 2 * E, BE, ACC, DOT, PRECISION,
        )  # fmt: skip
        d *= (2.0 / G) * rectified(
            p_heads, p_heads + 2 * S, o_r, o_k, left, S, G, BS, CAUSAL, False, ACC, PRECISION
        )
        if KEEP:
            d *= kept(keep + row * G, o_r, o_k, left, G, 1, KEEP_SCALE, ACC)
    store_rows(dx + row * G, o_r * G, o_r < left, i_k, d, G, BQ)


@triton.jit(do_not_specialize=RUNTIME)
def head_gradients(
    heads, z, da, dx, memory, dmemory, cu_seqlens,
    dheads,
    NS, T,
    S: tl.constexpr, E: tl.constexpr, G: tl.constexpr,
    BR: tl.constexpr, BQ: tl.constexpr, BE: tl.constexpr, BS: tl.constexpr,
    PACKED: tl.constexpr, CAUSAL: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQq = dX Kq, dLq = dA M', dKq = dX' Qq, dLk = Z dM' of BR frames, BS channels of one."""
    i_slot, i_n, row, _, left, i_r = own_rows(cu_seqlens, NS, T, G, BR, PACKED)
    if i_r >= left:
        return
    blocks: tl.constexpr = (S + BS - 1) // BS
    i_head = tl.program_id(2) // blocks
    i_s = tl.program_id(2) % blocks * BS
    o_r = i_r + tl.arange(0, BR)
    m_r = o_r < left
    o_s = i_s + tl.arange(0, BS)
    m_s = inside(o_s, S, BS)
    p_heads = heads + row * 4 * S
    place = i_n
    if CAUSAL:
        place = i_slot
    o_m = place * S * 2 * E
    d = tl.zeros([BR, BS], dtype=ACC)
    if i_head == 0:
        for i_k in tl.range(0, left, BQ, disable_licm=True):
            o_k = i_k + tl.arange(0, BQ)
            b_d = row_block(dx + row * G, o_r * G, m_r, i_k, G, BQ).to(DOT)
            b_k = row_block(p_heads + 2 * S, o_k * (4 * S), o_k < left, i_s, S, BS).to(DOT)
            d = tl.dot(b_d, b_k, d, input_precision=PRECISION)
    elif i_head == 1:
        d = products(
            da + row * 2 * E, memory + o_m, o_r * (2 * E), o_s * (2 * E), m_r, m_s, 2 * E, BE,
            ACC, DOT, PRECISION,
        )  # fmt: skip
    elif i_head == 2:
        for i_q in tl.range(0, left, BQ, disable_licm=True):
            o_q = i_q + tl.arange(0, BQ)
            b_d = row_block(dx + row * G, o_q * G, o_q < left, i_r, G, BR).to(DOT)
            b_q = row_block(p_heads, o_q * (4 * S), o_q < left, i_s, S, BS).to(DOT)
            d = tl.dot(tl.trans(b_d), b_q, d, input_precision=PRECISION)
    else:
        d = products(
            z + row * 2 * E, dmemory + o_m, o_r * (2 * E), o_s * (2 * E), m_r, m_s, 2 * E, BE,
            ACC, DOT, PRECISION,
        )  # fmt: skip
    store_rows(dheads + row * 4 * S + i_head * S, o_r * (4 * S), m_r, i_s, d, S, BS)
