# SPDX-License-Identifier: Apache-2.0
"""The state-space dual on CPUs: numba kernels that work through chunks of tokens.

The equations and symbols are those of the README, with the state kept as S' [N, P]: all work on
it is products of small matrices whose rows are contiguous.
"""

from collections import namedtuple

import numpy as np

from .._core.matmul import ROWS, product, product_transposed
from .._core.rows import (
    add_row_of,
    add_to_rows,
    compile_kernel,
    copy,
    dot,
    dot_row,
    load_rows,
    load_state,
    padded,
    scale_row,
    scale_rows,
    store_rows,
    store_state,
    sum_rows,
    transpose,
)

CHUNK = 16  # tokens
SPAN = 4 * CHUNK  # between two saved states

# One chunk: gate[i, j] is the decay from token j to token i (zero above the diagonal), reach[i]
# that from the state before the chunk; u = delta x is what is written, CB the pairs C_i . B_j.
_Chunk = namedtuple("_Chunk", "x u uT delta B BT C scaled gate reach CB out")
_Adjoint = namedtuple("_Adjoint", "dy dyT du e W W_first W_last U U_first columns rows dB dC")


@compile_kernel
def forward(x, B, C, a, delta, D, hT, y, states, options, bounds, blocks, first, last):
    """Jobs [first, last): y, the saved states and hT, which comes in as the initial state."""
    has_delta, has_D, save = options
    P, N, G = x.shape[2], B.shape[2], B.shape[1]
    c = _make_chunk(a, P, N)
    S = np.zeros((padded(N), padded(P)), a.dtype)
    for job in range(first, last):
        i_n, i_g, h0, h1 = _job(job, x.shape[1], G, blocks)
        start, stop = bounds[i_n], bounds[i_n + 1]
        slot = start // SPAN + i_n
        for i_h in range(h0, h1):
            transpose(S, hT[i_n, i_h], P, N)
            for t in range(start, stop, CHUNK):
                r = min(CHUNK, stop - t)
                if save and (t - start) % SPAN == 0:
                    store_state(states[slot + (t - start) // SPAN, i_h], S, 0, P)
                _load_writes(c, x, B, a, delta, has_delta, t, r, i_g, i_h)
                load_rows(c.C, C, t, r, i_g, 0, N)
                _pairs(c, r, N)
                _gate(c.CB, c.gate, r)
                scale_rows(c.scaled, c.reach, False, c.C, r)
                product(c.out, c.scaled, S, 0, r, 0, N, 0)
                _attend(c, r)
                if has_D:
                    for i in range(r):
                        add_row_of(c.out, i, D[i_h], c.x)
                store_rows(y, c.out, t, r, i_h, 0, P)
                _advance(c, S, r, N)
            transpose(hT[i_n, i_h], S, N, P)


@compile_kernel
def backward(x, B, C, a, delta, D, states, dy, dh0, grads, options, bounds, blocks, first, last):
    """Jobs [first, last): every gradient; dh0 comes in as the gradient of the final state."""
    has_delta, has_D, _ = options
    dx, dB, dC, da, ddelta, dD = grads
    P, N, G = x.shape[2], B.shape[2], B.shape[1]
    c = _make_chunk(a, P, N)
    d = _make_adjoint(c)
    S = np.zeros((SPAN // CHUNK, padded(N), padded(P)), a.dtype)
    dS = np.zeros((padded(N), padded(P)), a.dtype)
    for job in range(first, last):
        i_n, i_g, h0, h1 = _job(job, x.shape[1], G, blocks)
        i_b = job % blocks
        start, stop = bounds[i_n], bounds[i_n + 1]
        for i_h in range(h0, h1):
            dD_h = c.x.dtype.type(0)
            transpose(dS, dh0[i_n, i_h], P, N)
            for i_s in range((stop - start + SPAN - 1) // SPAN - 1, -1, -1):
                t0 = start + i_s * SPAN
                chunks = (min(SPAN, stop - t0) + CHUNK - 1) // CHUNK
                load_state(S[0], states[start // SPAN + i_n + i_s, i_h], 0, P)
                for i in range(chunks - 1):
                    copy(S[i + 1], S[i])
                    _load_writes(c, x, B, a, delta, has_delta, t0 + i * CHUNK, CHUNK, i_g, i_h)
                    _advance(c, S[i + 1], CHUNK, N)
                for i in range(chunks - 1, -1, -1):
                    t = t0 + i * CHUNK
                    r = min(CHUNK, stop - t)
                    _load_writes(c, x, B, a, delta, has_delta, t, r, i_g, i_h)
                    load_rows(c.C, C, t, r, i_g, 0, N)
                    load_rows(d.dy, dy, t, r, i_h, 0, P)
                    _reverse(c, d, S[i], dS, da[t : t + r, i_h], r, P, N)
                    if has_delta:
                        for j in range(r):
                            ddelta[t + j, i_h] = dot_row(c.x, d.du, j, P)
                        scale_rows(d.du, c.delta, False, d.du, r)
                    if has_D:
                        dD_h += dot(c.x, d.dy, r)
                        for j in range(r):
                            add_row_of(d.du, j, D[i_h], d.dy)
                    store_rows(dx, d.du, t, r, i_h, 0, P)
                    if i_h == h0:
                        store_rows(dB[i_b], d.dB, t, r, i_g, 0, N)
                        store_rows(dC[i_b], d.dC, t, r, i_g, 0, N)
                    else:
                        add_to_rows(dB[i_b], d.dB, t, r, i_g, 0, N)
                        add_to_rows(dC[i_b], d.dC, t, r, i_g, 0, N)
            transpose(dh0[i_n, i_h], dS, N, P)
            dD[i_n, i_h] = dD_h


@compile_kernel
def _attend(c, r):
    """out += (CB * gate) u, where what later rows hold never touches an earlier one, even if NaN"""
    if np.isfinite(sum_rows(c.u, r)):
        for i in range(0, r, ROWS):
            product(c.out, c.CB, c.u, i, i + ROWS, 0, min(i + ROWS, r), 1)
    else:
        for i in range(r):
            for j in range(i + 1):
                for p in range(c.out.shape[1]):
                    c.out[i, p] += c.CB[i, j] * c.u[j, p]


@compile_kernel
def _advance(c, S, r, N):
    """S = reach_last S + sum over j of gate_last,j B_j u_j'"""
    scale_rows(c.scaled, c.gate[r - 1], False, c.B, r)
    keep = _decayed(S, c.reach[r - 1])
    product_transposed(S, c.scaled, c.u, 0, N, 0, r, keep)


@compile_kernel
def _decayed(S, factor):
    """The factor that is left to multiply S with: zeros are done here, as 0 NaN is NaN."""
    if factor == 0:
        for i in range(S.shape[0]):
            scale_row(S, i, factor)
        return factor + 1
    return factor


@compile_kernel
def _reverse(c, d, S, dS, da, r, P, N):
    """From dy and dS after a chunk to du, dB, dC, da and dS before it."""
    last = r - 1
    transpose(d.dyT, d.dy, r, P)
    transpose(c.uT, c.u, r, P)
    _pairs(c, r, N)
    product(d.e, d.dy, c.uT, 0, r, 0, P, 0)
    for i in range(r):
        for j in range(i + 1):
            d.W[i, j] = c.CB[i, j] * d.e[i, j]
    _gate(c.CB, c.gate, r)
    _gate(d.e, c.gate, r)

    # what tokens of one chunk do to each other
    scale_rows(c.scaled, c.gate[last], False, c.B, r)
    product(d.du, c.scaled, dS, 0, r, 0, N, 0)
    for i in range(0, r, ROWS):
        end = min(i + ROWS, r)
        product_transposed(d.du, c.CB, d.dy, i, end, i, r, 1)
        product(d.dC, d.e, c.B, i, end, 0, end, 0)
        product_transposed(d.dB, d.e, c.C, i, end, i, r, 0)

    # what they do to the states at both ends
    product(d.columns, S, d.dyT, 0, N, 0, P, 0)
    transpose(d.rows, d.columns, N, r)
    for i in range(r):
        d.W_first[i] = dot_row(c.C, d.rows, i, N)
        add_row_of(d.dC, i, c.reach[i], d.rows)
    product(d.columns, dS, c.uT, 0, N, 0, P, 0)
    transpose(d.rows, d.columns, N, r)
    for j in range(r):
        d.W_last[j] = dot_row(c.B, d.rows, j, N)
        add_row_of(d.dB, j, c.gate[last, j], d.rows)
    S_dS = dS.dtype.type(0)
    for n in range(N):
        S_dS += dot_row(S, dS, n, P)
    _decay_adjoint(c, d, S_dS, da, r)
    scale_rows(c.scaled, c.reach, False, c.C, r)
    keep = _decayed(dS, c.reach[last])
    product_transposed(dS, c.scaled, d.dy, 0, N, 0, r, keep)


@compile_kernel
def _decay_adjoint(c, d, S_dS, da, r):
    """The gradient of each decay from the pairs around it, with no logarithm and no division.

    W[i, j] is the gradient of gate[i, j] and W_first[i] that of reach[i]. The state after the
    chunk has the decays of its last row: what is paired with it joins that row.
    """
    gate, W, U = c.gate, d.W, d.U
    last = r - 1
    d.W_first[last] += S_dS
    for j in range(r):
        W[last, j] += d.W_last[j]
    for t in range(0, r, ROWS):
        product_transposed(U, gate, W, t, min(t + ROWS, r), t, r, 0)
    d.U_first[:] = 0
    for i in range(r):
        for t in range(i + 1):
            d.U_first[t] += gate[i, t] * d.W_first[i]
    da[0] = d.U_first[0]
    for t in range(1, r):
        total = c.reach[t - 1] * d.U_first[t]
        for j in range(t):
            total += gate[t - 1, j] * U[t, j]
        da[t] = total


@compile_kernel
def _load_writes(c, x, B, a, delta, has_delta, t, r, i_g, i_h):
    """What tokens t ... t + r - 1 write, and their decays."""
    load_rows(c.x, x, t, r, i_h, 0, x.shape[2])
    load_rows(c.B, B, t, r, i_g, 0, B.shape[2])
    if has_delta:
        for i in range(r):
            c.delta[i] = delta[t + i, i_h]
        scale_rows(c.u, c.delta, False, c.x, r)
    else:
        load_rows(c.u, x, t, r, i_h, 0, x.shape[2])
    gate, reach = c.gate, c.reach
    for i in range(r):
        a_i = a[t + i, i_h]
        reach[i] = a_i * reach[i - 1] if i > 0 else a_i
        for j in range(i):
            gate[i, j] = a_i * gate[i - 1, j]
        gate[i, i] = 1


@compile_kernel
def _pairs(c, r, N):
    """CB_ij = C_i . B_j, not yet gated."""
    transpose(c.BT, c.B, r, N)
    product(c.CB, c.C, c.BT, 0, r, 0, N, 0)


@compile_kernel
def _gate(pairs, gate, r):
    for i in range(r):
        for j in range(pairs.shape[1]):
            # not a product with a zero gate: what comes later may be infinite
            pairs[i, j] = pairs[i, j] * gate[i, j] if j <= i else 0


@compile_kernel
def _job(job, H, G, blocks):
    """The sequence, group and heads [h0, h1) of one job."""
    i_b, i_ng = job % blocks, job // blocks
    i_n, i_g = i_ng // G, i_ng % G
    first, heads = i_g * (H // G), H // G
    return i_n, i_g, first + heads * i_b // blocks, first + heads * (i_b + 1) // blocks


@compile_kernel
def _make_chunk(like, P, N):
    P, N, dtype = padded(P), padded(N), like.dtype
    return _Chunk(
        x=np.zeros((CHUNK, P), dtype),
        u=np.zeros((CHUNK, P), dtype),
        uT=np.zeros((P, CHUNK), dtype),
        delta=np.zeros(CHUNK, dtype),
        B=np.zeros((CHUNK, N), dtype),
        BT=np.zeros((N, CHUNK), dtype),
        C=np.zeros((CHUNK, N), dtype),
        scaled=np.zeros((CHUNK, N), dtype),
        gate=np.zeros((CHUNK, CHUNK), dtype),
        reach=np.zeros(CHUNK, dtype),
        CB=np.zeros((CHUNK, CHUNK), dtype),
        out=np.zeros((CHUNK, P), dtype),
    )


@compile_kernel
def _make_adjoint(c):
    P, N, dtype = c.x.shape[1], c.B.shape[1], c.x.dtype
    return _Adjoint(
        dy=np.zeros((CHUNK, P), dtype),
        dyT=np.zeros((P, CHUNK), dtype),
        du=np.zeros((CHUNK, P), dtype),
        e=np.zeros((CHUNK, CHUNK), dtype),
        W=np.zeros((CHUNK, CHUNK), dtype),
        W_first=np.zeros(CHUNK, dtype),
        W_last=np.zeros(CHUNK, dtype),
        U=np.zeros((CHUNK, CHUNK), dtype),
        U_first=np.zeros(CHUNK, dtype),
        columns=np.zeros((N, CHUNK), dtype),
        rows=np.zeros((CHUNK, N), dtype),
        dB=np.zeros((CHUNK, N), dtype),
        dC=np.zeros((CHUNK, N), dtype),
    )
