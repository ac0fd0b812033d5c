# SPDX-License-Identifier: Apache-2.0
"""The delta rule on CPUs: numba kernels that work through chunks of 16 rows.

The equations and symbols are those of the README: inside a chunk the recurrence is a triangular
system, and all work on the state is matrix products. A row is one key; with n keys per token the
query of token t reads after row n*t + n - 1.
"""

from collections import namedtuple

import numpy as np

from .._core.matmul import ROWS, product, product_transposed
from .._core.rows import (
    add_row,
    add_rows,
    clear,
    compile_kernel,
    copy,
    dot_columns,
    dot_row,
    load_rows,
    load_state,
    padded,
    scale_all,
    scale_row,
    scale_rows,
    store_rows,
    store_state,
    sum_rows,
    transpose,
)

CHUNKS = 4  # between two saved states
_CHUNK_ROWS = 16

# One chunk: keys and queries as they enter the products, gate[i, j] the decay from row j to row i
# (zero above the diagonal), reach[i] that from the state before the chunk, and the solution `new`
# of the triangular system (I + L) new = beta * residual.
_Chunk = namedtuple(
    "_Chunk",
    "k kT k_rstd k_scaled q q_rstd q_scaled beta gate reach kk qk minus_L out",
)
_Adjoint = namedtuple(
    "_Adjoint",
    "do doT y dr drT newT minus_LT y_new do_new pair S_do S_dr dS_new columns dq dk dots W",
)


def chunk_tokens(num_householder: int) -> int:
    """Tokens per chunk: as many as fill its rows, and at least one."""
    return max(1, _CHUNK_ROWS // num_householder)


_chunk_tokens = compile_kernel(chunk_tokens)


@compile_kernel
def forward(q, k, v, beta, decay, hT, o, states, options, bounds, blocks, first, last):
    """Jobs [first, last): o, the saved states and hT, which comes in as the initial state."""
    scale, _, n, _, save = options
    K, V, tokens = q.shape[2], _block_width(v.shape[2], blocks), _chunk_tokens(n)
    span = CHUNKS * tokens
    c = _make_chunk(beta, K, V, n)
    S = np.zeros((padded(K), V), beta.dtype)
    new, residual = np.zeros_like(c.out), np.zeros_like(c.out)
    for job in range(first, last):
        i_n, i_h, v0, v1 = _job(job, v.shape[1], v.shape[2], blocks)
        start, stop = bounds[i_n], bounds[i_n + 1]
        slot = start // span + i_n
        load_state(S, hT[i_n, i_h], v0, v1)
        for t in range(start, stop, tokens):
            m = min(tokens, stop - t)
            r = m * n
            if save and (t - start) % span == 0:
                store_state(states[slot + (t - start) // span, i_h], S, v0, v1)
            _load_keys(c, k, beta, decay, options, t, m, i_h)
            load_rows(residual, v, t * n, r, i_h, v0, v1)
            _solve(c, S, residual, new, r, K)
            _load_queries(c, q, options, t, m, i_h, v.shape[1])
            _gate_queries(c.qk, c.gate, n, m)
            product(c.out, c.q_scaled, S, 0, m, 0, K, 0)
            _attend(c, new, m, r)
            scale_all(c.out, m, scale)
            store_rows(o, c.out, t, m, i_h, v0, v1)
            _advance(c, S, new, r, K)
        store_state(hT[i_n, i_h], S, v0, v1)


@compile_kernel
def backward(q, k, v, beta, decay, states, do, dh0, grads, options, bounds, blocks, first, last):
    """Jobs [first, last): every gradient; dh0 comes in as the gradient of the final state."""
    dq, dk, dv, dbeta, ddecay = grads
    scale, normalize, n, _, _ = options
    K, V, HV = q.shape[2], _block_width(v.shape[2], blocks), v.shape[1]
    tokens = _chunk_tokens(n)
    span = CHUNKS * tokens
    c = _make_chunk(beta, K, V, n)
    a = _make_adjoint(c)
    S = np.zeros((CHUNKS, padded(K), V), beta.dtype)
    dS = np.zeros((padded(K), V), beta.dtype)
    new = np.zeros((CHUNKS, *c.out.shape), beta.dtype)
    residual = np.zeros((CHUNKS, *c.out.shape), beta.dtype)
    for job in range(first, last):
        i_n, i_h, v0, v1 = _job(job, HV, v.shape[2], blocks)
        i_b = job % blocks
        start, stop = bounds[i_n], bounds[i_n + 1]
        spans = (stop - start + span - 1) // span
        load_state(dS, dh0[i_n, i_h], v0, v1)
        for i_s in range(spans - 1, -1, -1):
            t0 = start + i_s * span
            chunks = (min(span, stop - t0) + tokens - 1) // tokens
            load_state(S[0], states[start // span + i_n + i_s, i_h], v0, v1)
            for i in range(chunks):
                t = t0 + i * tokens
                m = min(tokens, stop - t)
                _load_keys(c, k, beta, decay, options, t, m, i_h)
                load_rows(residual[i], v, t * n, m * n, i_h, v0, v1)
                _solve(c, S[i], residual[i], new[i], m * n, K)
                if i + 1 < chunks:
                    copy(S[i + 1], S[i])
                    _advance(c, S[i + 1], new[i], m * n, K)
            for i in range(chunks - 1, -1, -1):
                t = t0 + i * tokens
                m = min(tokens, stop - t)
                r, j = m * n, t * n
                if i + 1 < chunks:
                    _load_keys(c, k, beta, decay, options, t, m, i_h)
                _load_queries(c, q, options, t, m, i_h, HV)
                load_rows(a.do, do, t, m, i_h, v0, v1)
                scale_all(a.do, m, scale)
                _reverse(
                    c, a, S[i], dS, residual[i], new[i], options, m, K, v1 - v0,
                    dbeta[i_b, j : j + r, i_h], ddecay[i_b, t : t + m, i_h],
                )  # fmt: skip
                store_rows(dv, a.dr, j, r, i_h, v0, v1)
                if normalize:
                    _normalise_adjoint(a.dq, c.q, c.q_rstd, m, K)
                    _normalise_adjoint(a.dk, c.k, c.k_rstd, r, K)
                store_rows(dq[i_b], a.dq, t, m, i_h, 0, K)
                store_rows(dk[i_b], a.dk, j, r, i_h, 0, K)
        store_state(dh0[i_n, i_h], dS, v0, v1)


@compile_kernel
def _solve(c, S, residual, new, r, K):
    """residual -= reach K S;  new_i = beta_i residual_i - sum over j < i of L_ij new_j"""
    scale_rows(c.k_scaled, c.reach, True, c.k, r)
    product(residual, c.k_scaled, S, 0, r, 0, K, 1)
    scale_rows(new, c.beta, False, residual, r)
    for b in range(0, r, ROWS):
        product(new, c.minus_L, new, b, b + 1, 0, b, 1)
        for i in range(b + 1, min(b + ROWS, r)):
            for j in range(b, i):
                add_row(new, i, c.minus_L[i, j], j)


@compile_kernel
def _attend(c, new, m, r):
    """out += P new, where what later rows hold never touches an earlier one, even if it is NaN"""
    n = r // m
    if np.isfinite(sum_rows(new, r)):
        product(c.out, c.qk, new, 0, m, 0, r, 1)
    else:
        for t in range(m):
            for j in range(n * t + n):
                for d in range(new.shape[1]):
                    c.out[t, d] += c.qk[t, j] * new[j, d]


@compile_kernel
def _advance(c, S, new, r, K):
    """S = reach_last S + sum over j of gate_last,j k_j new_j'"""
    scale_rows(c.k_scaled, c.gate[r - 1], False, c.k, r)
    product_transposed(S, c.k_scaled, new, 0, K, 0, r, c.reach[r - 1])


@compile_kernel
def _reverse(c, a, S, dS, residual, new, options, m, K, V, dbeta, ddecay):
    """From do and dS after a chunk to dq, dk, dr = dv, dbeta, ddecay and dS before it."""
    n, gated = options[2], options[3]
    r, W = m * n, a.W
    last = r - 1
    transpose(a.doT, a.do, m, V)
    transpose(a.newT, new, r, V)
    product(a.do_new, a.do, a.newT, 0, m, 0, V, 0)
    if gated:
        clear(W)
        for i in range(K):  # V columns alone: padding may hold what is not finite
            W[r, 0] += dot_row(S, dS, i, V)
        for t in range(m):
            for j in range(n * t + n):
                W[n * t + n - 1, 1 + j] = a.do_new[t, j] * c.qk[t, j]
    _gate_queries(c.qk, c.gate, n, m)
    _gate_queries(a.do_new, c.gate, n, m)

    # y = (I + L)'^-1 (the gradient of new), the last rows first
    scale_rows(c.k_scaled, c.gate[last], False, c.k, r)
    product(a.y, c.k_scaled, dS, 0, r, 0, K, 0)
    product_transposed(a.y, c.qk, a.do, 0, r, 0, m, 1)
    transpose(a.minus_LT, c.minus_L, r, r)
    for b in range(last // ROWS * ROWS, -1, -ROWS):
        end = min(b + ROWS, r)
        product(a.y, a.minus_LT, a.y, b, end, end, r, 1)
        for i in range(end - 2, b - 1, -1):
            for j in range(i + 1, end):
                add_row(a.y, i, c.minus_L[j, i], j)
    scale_rows(a.dr, c.beta, False, a.y, r)
    transpose(a.drT, a.dr, r, V)

    # what rows of one chunk do to each other
    product(a.y_new, a.y, a.newT, 0, r, 0, V, 0)
    for i in range(r):
        total = dot_row(a.y, residual, i, V)
        a.pair[i, i] = 0
        for j in range(i):
            direct = a.y_new[i, j] * c.kk[i, j]
            total -= direct * c.gate[i, j]
            if gated:
                W[i, 1 + j] -= c.beta[i] * direct
            a.pair[i, j] = -c.beta[i] * a.y_new[i, j] * c.gate[i, j]
            a.pair[j, i] = a.pair[i, j]
        dbeta[i] = total
    product(a.dq, a.do_new, c.k, 0, m, 0, r, 0)
    product(a.dk, a.pair, c.k, 0, r, 0, r, 0)
    product_transposed(a.dk, a.do_new, c.q, 0, r, 0, m, 1)

    # what they do to the states at both ends
    product(a.S_do, S, a.doT, 0, K, 0, V, 0)
    product(a.S_dr, S, a.drT, 0, K, 0, V, 0)
    product(a.dS_new, dS, a.newT, 0, K, 0, V, 0)
    if gated:
        dot_columns(a.dots, c.kT, a.S_dr)
        for j in range(r):
            W[j, 0] = -a.dots[j]
        dot_columns(a.dots, c.kT, a.dS_new)
        for j in range(r):
            W[r, 1 + j] = a.dots[j]
    for i in range(K):
        for j in range(r):
            a.dS_new[i, j] = c.gate[last, j] * a.dS_new[i, j] - c.reach[j] * a.S_dr[i, j]
    transpose(a.columns, a.dS_new, K, r)
    add_rows(a.dk, a.columns, r)
    transpose(a.columns, a.S_do, K, m)
    for t in range(m):
        i = n * t + n - 1
        if gated:
            W[i, 0] += dot_row(c.q, a.columns, t, K)
        scale_row(a.columns, t, c.reach[i])
    add_rows(a.dq, a.columns, m)
    if gated:
        _decay_adjoint(W, c.gate, c.reach, n, r, ddecay)
    product_transposed(dS, c.q_scaled, a.do, 0, K, 0, m, c.reach[last])
    scale_rows(c.k_scaled, c.reach, True, c.k, r)
    product_transposed(dS, c.k_scaled, a.dr, 0, K, 0, r, 1)


@compile_kernel
def _decay_adjoint(W, gate, reach, n, r, ddecay):
    """The gradient of each decay from the pairs around it, with no logarithm and no division.

    W[i, 1 + j] is the gradient of gate[i, j] and W[i, 0] that of reach[i], so far as they appear
    in the chunk; row r stands for the state after it.
    """
    for t in range(0, r, n):
        total = gate[0, 0] * 0
        for j in range(t + 1):  # column 0 is the state before the chunk, column j is row j - 1
            inner = gate[r - 1, t] * W[r, j]
            for i in range(t, r):
                inner += gate[i, t] * W[i, j]
            if t == 0:
                total += inner
            else:
                total += inner * (reach[t - 1] if j == 0 else gate[t - 1, j - 1])
        ddecay[t // n] = total


@compile_kernel
def _load_keys(c, k, beta, decay, options, t, m, i_h):
    """Keys, beta, gates and L of the chunk of m tokens that starts at token t."""
    _, normalize, n, gated, _ = options
    K, r, first = k.shape[2], m * n, t * n
    load_rows(c.k, k, first, r, i_h // (beta.shape[1] // k.shape[1]), 0, K)
    if normalize:
        _normalise(c.k, c.k_rstd, r, K)
    transpose(c.kT, c.k, r, K)
    product(c.kk, c.k, c.kT, 0, r, 0, K, 0)
    gate, minus_L = c.gate, c.minus_L
    for i in range(r):
        beta_i = beta[first + i, i_h]
        c.beta[i] = beta_i
        a_i = decay[t + i // n, i_h] if gated and i % n == 0 else beta.dtype.type(1)
        c.reach[i] = a_i * c.reach[i - 1] if i > 0 else a_i
        gate[i, i] = 1
        for j in range(i):
            gate[i, j] = a_i * gate[i - 1, j]
            minus_L[i, j] = -beta_i * c.kk[i, j] * gate[i, j]


@compile_kernel
def _load_queries(c, q, options, t, m, i_h, HV):
    """Queries and their products with the keys, not yet gated."""
    _, normalize, n, _, _ = options
    K = q.shape[2]
    load_rows(c.q, q, t, m, i_h // (HV // q.shape[1]), 0, K)
    if normalize:
        _normalise(c.q, c.q_rstd, m, K)
    scale_rows(c.q_scaled, c.reach[n - 1 :: n], False, c.q, m)
    product(c.qk, c.q, c.kT, 0, m, 0, K, 0)


@compile_kernel
def _gate_queries(x, gate, n, m):
    for t in range(m):
        i = n * t + n - 1
        for j in range(x.shape[1]):
            # not a product with a zero gate: what comes later may be infinite
            x[t, j] = x[t, j] * gate[i, j] if j <= i else 0


@compile_kernel
def _normalise(x, rstd, rows, K):
    for i in range(rows):
        rstd[i] = 1 / np.sqrt(dot_row(x, x, i, K) + x.dtype.type(1e-6))
    scale_rows(x, rstd, False, x, rows)


@compile_kernel
def _normalise_adjoint(dx, x, rstd, rows, K):
    for i in range(rows):
        along = dot_row(x, dx, i, K)
        for d in range(K):
            dx[i, d] = rstd[i] * (dx[i, d] - along * x[i, d])


@compile_kernel
def _job(job, HV, V, blocks):
    """The sequence, head and columns [v0, v1) of one job."""
    block, i_nh = job % blocks, job // blocks
    width = _block_width(V, blocks)
    return i_nh // HV, i_nh % HV, min(V, block * width), min(V, (block + 1) * width)


@compile_kernel
def _block_width(V, blocks):
    return padded((V + blocks - 1) // blocks)


@compile_kernel
def _make_chunk(like, K, V, n):
    R, K, dtype = padded(max(n, _CHUNK_ROWS)), padded(K), like.dtype
    return _Chunk(
        k=np.zeros((R, K), dtype),
        kT=np.zeros((K, R), dtype),
        k_rstd=np.zeros(R, dtype),
        k_scaled=np.zeros((R, K), dtype),
        q=np.zeros((R, K), dtype),
        q_rstd=np.zeros(R, dtype),
        q_scaled=np.zeros((R, K), dtype),
        beta=np.zeros(R, dtype),
        gate=np.zeros((R, R), dtype),
        reach=np.zeros(R, dtype),
        kk=np.zeros((R, R), dtype),
        qk=np.zeros((R, R), dtype),
        minus_L=np.zeros((R, R), dtype),
        out=np.zeros((R, V), dtype),
    )


@compile_kernel
def _make_adjoint(c):
    (R, K), V, dtype = c.k.shape, c.out.shape[1], c.k.dtype
    return _Adjoint(
        do=np.zeros((R, V), dtype),
        doT=np.zeros((V, R), dtype),
        y=np.zeros((R, V), dtype),
        dr=np.zeros((R, V), dtype),
        drT=np.zeros((V, R), dtype),
        newT=np.zeros((V, R), dtype),
        minus_LT=np.zeros((R, R), dtype),
        y_new=np.zeros((R, R), dtype),
        do_new=np.zeros((R, R), dtype),
        pair=np.zeros((R, R), dtype),
        S_do=np.zeros((K, R), dtype),
        S_dr=np.zeros((K, R), dtype),
        dS_new=np.zeros((K, R), dtype),
        dq=np.zeros((R, K), dtype),
        dk=np.zeros((R, K), dtype),
        columns=np.zeros((R, K), dtype),
        dots=np.zeros(R, dtype),
        W=np.zeros((R + 1, R + 1), dtype),
    )
