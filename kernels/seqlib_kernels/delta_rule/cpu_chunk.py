# SPDX-License-Identifier: Apache-2.0
"""The delta rule on CPUs: numba kernels that work through chunks of 16 rows.

The equations and symbols are those of the README: inside a chunk the recurrence is a triangular
system, and all work on the state is matrix products. A row is one key; with n keys per token the
query of token t reads after row n*t + n - 1. Arrays are padded to whole tiles; what padding holds
never reaches a row or column that counts, because sums stop at the true sizes.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from .._core.lowp import narrow, widen
from .._core.matmul import ROWS, add_product, add_product_transposed

CHUNKS = 4  # between two saved states
WIDTH = 16  # rows and columns are padded to multiples of this many, whole tiles in any dtype
_CHUNK_ROWS = 16

# NaN must pass through: of the fast-math licences only fused multiply-add and the order of sums.
_compile = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})

# One chunk: keys and queries as they enter the products, gate[i, j] the decay from row j to row i
# (zero above the diagonal), reach[i] that from the state before the chunk, and the solution `new`
# of the triangular system (I + L) new = beta * residual.
_Chunk = namedtuple(
    "_Chunk",
    "k kT k_rstd k_scaled q q_rstd q_scaled beta gate reach kk qk minus_L residual new out",
)
_Adjoint = namedtuple(
    "_Adjoint",
    "do doT y dr drT newT minus_LT y_new do_new pair S_do S_dr dS_new dq dk row W",
)


def chunk_tokens(num_householder: int) -> int:
    """Tokens per chunk: as many as fill its rows, and at least one."""
    return max(1, _CHUNK_ROWS // num_householder)


_chunk_tokens = _compile(chunk_tokens)


@_compile
def forward(q, k, v, beta, decay, hT, o, states, options, bounds, blocks, first, last):
    """Jobs [first, last): o, the saved states and hT, which comes in as the initial state."""
    scale, _, n, _, save = options
    K, tokens = q.shape[2], _chunk_tokens(n)
    span = CHUNKS * tokens
    c = _make_chunk(beta, K, _block_width(v.shape[2], blocks), n)
    S = np.zeros((_padded(K), c.new.shape[1]), beta.dtype)
    for job in range(first, last):
        i_n, i_h, v0, v1 = _job(job, v.shape[1], v.shape[2], blocks)
        start, stop = bounds[i_n], bounds[i_n + 1]
        slot = start // span + i_n
        _load_state(S, hT[i_n, i_h], v0, v1)
        for t in range(start, stop, tokens):
            m = min(tokens, stop - t)
            if save and (t - start) % span == 0:
                _store_state(states[slot + (t - start) // span, i_h], S, v0, v1)
            _load_keys(c, k, beta, decay, options, t, m, i_h)
            _solve(c, S, v, t * n, m * n, i_h, v0, v1, K)
            _load_queries(c, q, options, t, m, i_h, v.shape[1])
            _gate_queries(c.qk, c.gate, n, m)
            c.out[:] = 0
            add_product(c.out, c.q_scaled, S, m, 0, K)
            add_product(c.out, c.qk, c.new, m, 0, m * n)
            c.out[:] *= scale
            _store(o, c.out, t, m, i_h, v0, v1)
            _advance(c, S, m * n, K)
        _store_state(hT[i_n, i_h], S, v0, v1)


@_compile
def backward(q, k, v, beta, decay, states, do, dh0, grads, options, bounds, blocks, first, last):
    """Jobs [first, last): every gradient; dh0 comes in as the gradient of the final state."""
    dq, dk, dv, dbeta, ddecay = grads
    scale, normalize, n, _, _ = options
    K, HV, tokens = q.shape[2], v.shape[1], _chunk_tokens(n)
    span = CHUNKS * tokens
    c = _make_chunk(beta, K, _block_width(v.shape[2], blocks), n)
    a = _make_adjoint(c)
    S = np.zeros((CHUNKS, _padded(K), c.new.shape[1]), beta.dtype)
    dS = np.zeros(S.shape[1:], beta.dtype)
    new = np.zeros((CHUNKS, *c.new.shape), beta.dtype)
    residual = np.zeros((CHUNKS, *c.new.shape), beta.dtype)
    for job in range(first, last):
        i_n, i_h, v0, v1 = _job(job, HV, v.shape[2], blocks)
        i_b = job % blocks
        start, stop = bounds[i_n], bounds[i_n + 1]
        spans = (stop - start + span - 1) // span
        _load_state(dS, dh0[i_n, i_h], v0, v1)
        for i_s in range(spans - 1, -1, -1):
            t0 = start + i_s * span
            chunks = (min(span, stop - t0) + tokens - 1) // tokens
            _load_state(S[0], states[start // span + i_n + i_s, i_h], v0, v1)
            for i in range(chunks):
                t = t0 + i * tokens
                m = min(tokens, stop - t)
                _load_keys(c, k, beta, decay, options, t, m, i_h)
                _solve(c, S[i], v, t * n, m * n, i_h, v0, v1, K)
                new[i] = c.new
                residual[i] = c.residual
                if i + 1 < chunks:
                    S[i + 1] = S[i]
                    _advance(c, S[i + 1], m * n, K)
            for i in range(chunks - 1, -1, -1):
                t = t0 + i * tokens
                m = min(tokens, stop - t)
                r, j = m * n, t * n
                if i + 1 < chunks:
                    _load_keys(c, k, beta, decay, options, t, m, i_h)
                    c.new[:] = new[i]
                    c.residual[:] = residual[i]
                _load_queries(c, q, options, t, m, i_h, HV)
                _load(a.do, do, t, m, i_h, v0, v1)
                a.do[:] *= scale
                _reverse(
                    c, a, S[i], dS, options, m, K, v1 - v0,
                    dbeta[i_b, j : j + r, i_h], ddecay[i_b, t : t + m, i_h],
                )  # fmt: skip
                _store(dv, a.dr, j, r, i_h, v0, v1)
                if normalize:
                    _normalise_adjoint(a.dq, c.q, c.q_rstd, m, K)
                    _normalise_adjoint(a.dk, c.k, c.k_rstd, r, K)
                _store(dq[i_b], a.dq, t, m, i_h, 0, K)
                _store(dk[i_b], a.dk, j, r, i_h, 0, K)
        _store_state(dh0[i_n, i_h], dS, v0, v1)


@_compile
def _solve(c, S, v, first_row, r, i_h, v0, v1, K):
    """residual = V - reach K S;  new_i = beta_i residual_i - sum over j < i of L_ij new_j"""
    _load(c.residual, v, first_row, r, i_h, v0, v1)
    for i in range(r):
        _scale_row(c.k_scaled[i], -c.reach[i], c.k[i])
    add_product(c.residual, c.k_scaled, S, r, 0, K)
    for i in range(c.new.shape[0]):
        _scale_row(c.new[i], c.beta[i], c.residual[i])
    for b in range(0, r, ROWS):
        add_product(c.new[b:], c.minus_L[b:], c.new, ROWS, 0, b)
        for i in range(b + 1, min(b + ROWS, r)):
            for j in range(b, i):
                _add_row(c.new[i], c.minus_L[i, j], c.new[j])


@_compile
def _advance(c, S, r, K):
    """S = reach_last S + sum over j of gate_last,j k_j new_j'"""
    _scale_state(S, c.reach[r - 1], K)
    for j in range(r):
        _scale_row(c.k_scaled[j], c.gate[r - 1, j], c.k[j])
    add_product_transposed(S, c.k_scaled, c.new, K, 0, r)


@_compile
def _reverse(c, a, S, dS, options, m, K, V, dbeta, ddecay):
    """From do and dS after a chunk to dq, dk, dr = dv, dbeta, ddecay and dS before it."""
    n, gated = options[2], options[3]
    r = m * n
    W, last = a.W, r - 1
    _transpose(a.doT, a.do, m, V)
    _transpose(a.newT, c.new, r, V)
    a.do_new[:] = 0
    add_product(a.do_new, a.do, a.newT, m, 0, V)
    if gated:
        W[:] = 0
        for i in range(K):
            W[r, 0] += _dot(S[i], dS[i], V)
        for t in range(m):
            for j in range(r):
                W[n * t + n - 1, 1 + j] = a.do_new[t, j] * c.qk[t, j]
    _gate_queries(c.qk, c.gate, n, m)
    _gate_queries(a.do_new, c.gate, n, m)

    # y = (I + L)'^-1 (the gradient of new), the last rows first
    for j in range(r):
        _scale_row(c.k_scaled[j], c.gate[last, j], c.k[j])
    a.y[:] = 0
    add_product(a.y, c.k_scaled, dS, r, 0, K)
    add_product_transposed(a.y, c.qk, a.do, r, 0, m)
    _transpose(a.minus_LT, c.minus_L, c.minus_L.shape[0], c.minus_L.shape[1])
    for b in range((r - 1) // ROWS * ROWS, -1, -ROWS):
        end = min(b + ROWS, r)
        add_product(a.y[b:], a.minus_LT[b:], a.y, ROWS, end, r)
        for i in range(end - 2, b - 1, -1):
            for j in range(i + 1, end):
                _add_row(a.y[i], a.minus_LT[i, j], a.y[j])
    for i in range(r):
        _scale_row(a.dr[i], c.beta[i], a.y[i])
    _transpose(a.drT, a.dr, r, V)

    # what rows of one chunk do to each other
    a.y_new[:] = 0
    add_product(a.y_new, a.y, a.newT, r, 0, V)
    for i in range(r):
        total = _dot(a.y[i], c.residual[i], V)
        a.pair[i, i] = 0
        for j in range(i):
            direct = a.y_new[i, j] * c.kk[i, j]
            total -= direct * c.gate[i, j]
            if gated:
                W[i, 1 + j] -= c.beta[i] * direct
            a.pair[i, j] = -c.beta[i] * a.y_new[i, j] * c.gate[i, j]
            a.pair[j, i] = a.pair[i, j]
        dbeta[i] = total
    a.dq[:] = 0
    add_product(a.dq, a.do_new, c.k, m, 0, r)
    a.dk[:] = 0
    add_product(a.dk, a.pair, c.k, r, 0, r)
    add_product_transposed(a.dk, a.do_new, c.q, r, 0, m)

    # what they do to the states at both ends
    a.S_do[:] = 0
    a.S_dr[:] = 0
    a.dS_new[:] = 0
    add_product(a.S_do, S, a.doT, K, 0, V)
    add_product(a.S_dr, S, a.drT, K, 0, V)
    add_product(a.dS_new, dS, a.newT, K, 0, V)
    for t in range(m):
        i = n * t + n - 1
        _copy_column(a.row, a.S_do, t, K)
        _add_row(a.dq[t], c.reach[i], a.row)
        if gated:
            W[i, 0] += _dot(c.q[t], a.row, K)
    for j in range(r):
        _copy_column(a.row, a.S_dr, j, K)
        _add_row(a.dk[j], -c.reach[j], a.row)
        if gated:
            W[j, 0] -= _dot(c.k[j], a.row, K)
        _copy_column(a.row, a.dS_new, j, K)
        _add_row(a.dk[j], c.gate[last, j], a.row)
        if gated:
            W[r, 1 + j] = _dot(c.k[j], a.row, K)
    if gated:
        _decay_adjoint(W, c.gate, c.reach, n, r, ddecay)
    _scale_state(dS, c.reach[last], K)
    add_product_transposed(dS, c.q_scaled, a.do, K, 0, m)
    for j in range(r):
        _scale_row(c.k_scaled[j], -c.reach[j], c.k[j])
    add_product_transposed(dS, c.k_scaled, a.dr, K, 0, r)


@_compile
def _decay_adjoint(W, gate, reach, n, r, ddecay):
    """The gradient of each decay from pairs it lies between, with no logarithm and no division.

    W[i, 1 + j] is the gradient of gate[i, j] times what it multiplies, W[i, 0] that of reach[i];
    row r stands for the state after the chunk.
    """
    for t in range(0, r, n):
        total = gate[0, 0] * 0
        for j in range(t + 1):  # column 0 is the state before the chunk, column j row j - 1
            inner = gate[r - 1, t] * W[r, j]
            for i in range(t, r):
                inner += gate[i, t] * W[i, j]
            if t == 0:
                total += inner
            else:
                total += inner * (reach[t - 1] if j == 0 else gate[t - 1, j - 1])
        ddecay[t // n] = total


@_compile
def _load_keys(c, k, beta, decay, options, t, m, i_h):
    """Keys, beta, gates and L of the chunk of m tokens that starts at token t."""
    _, normalize, n, gated, _ = options
    K, r, first = k.shape[2], m * n, t * n
    _load(c.k, k, first, r, i_h // (beta.shape[1] // k.shape[1]), 0, K)
    if normalize:
        _normalise(c.k, c.k_rstd, r, K)
    _transpose(c.kT, c.k, r, K)
    c.kk[:] = 0
    add_product(c.kk, c.k, c.kT, r, 0, K)
    c.beta[:] = 0
    c.minus_L[:] = 0
    for i in range(r):
        c.beta[i] = beta[first + i, i_h]
        a_i = c.beta[i] * 0 + 1
        if gated and i % n == 0:
            a_i = decay[t + i // n, i_h]
        c.reach[i] = a_i * c.reach[i - 1] if i > 0 else a_i
        c.gate[i, i] = 1
        for j in range(i):
            c.gate[i, j] = a_i * c.gate[i - 1, j]
            c.minus_L[i, j] = -c.beta[i] * c.kk[i, j] * c.gate[i, j]


@_compile
def _load_queries(c, q, options, t, m, i_h, HV):
    """Queries and their products with the keys, not yet gated."""
    _, normalize, n, _, _ = options
    K = q.shape[2]
    _load(c.q, q, t, m, i_h // (HV // q.shape[1]), 0, K)
    if normalize:
        _normalise(c.q, c.q_rstd, m, K)
    for i in range(m):
        _scale_row(c.q_scaled[i], c.reach[n * i + n - 1], c.q[i])
    c.qk[:] = 0
    add_product(c.qk, c.q, c.kT, m, 0, K)


@_compile
def _gate_queries(x, gate, n, m):
    for i in range(m):
        row, factors = x[i], gate[n * i + n - 1]
        for j in range(row.shape[0]):
            # a stale or masked product may be NaN, and 0 * NaN is NaN
            row[j] = row[j] * factors[j] if j < n * i + n else 0


@_compile
def _normalise(x, rstd, rows, K):
    for i in range(rows):
        rstd[i] = 1 / np.sqrt(_dot(x[i], x[i], K) + x.dtype.type(1e-6))
        _scale_row(x[i], rstd[i], x[i])


@_compile
def _normalise_adjoint(dx, x, rstd, rows, K):
    for i in range(rows):
        _add_row(dx[i], -_dot(x[i], dx[i], K), x[i])
        _scale_row(dx[i], rstd[i], dx[i])


@_compile
def _job(job, HV, V, blocks):
    """The sequence, head and columns [v0, v1) of one job."""
    block, i_nh = job % blocks, job // blocks
    width = _block_width(V, blocks)
    return i_nh // HV, i_nh % HV, min(V, block * width), min(V, (block + 1) * width)


@_compile
def _block_width(V, blocks):
    return _padded((V + blocks - 1) // blocks)


@_compile
def _padded(size):
    return (size + WIDTH - 1) // WIDTH * WIDTH


@_compile
def _make_chunk(like, K, V, n):
    R, K, V = _padded(max(n, _CHUNK_ROWS)), _padded(K), _padded(V)
    dtype = like.dtype
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
        residual=np.zeros((R, V), dtype),
        new=np.zeros((R, V), dtype),
        out=np.zeros((R, V), dtype),
    )


@_compile
def _make_adjoint(c):
    (R, K), V, dtype = c.k.shape, c.new.shape[1], c.k.dtype
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
        row=np.zeros(K, dtype),
        W=np.zeros((R + 1, R + 1), dtype),
    )


@_compile
def _load(x, source, first, rows, i_h, d0, d1):
    """Rows `first` ... of one head into x, and zeros below them."""
    for i in range(rows):
        x_i, source_i = x[i], source[first + i, i_h, d0:d1]
        for d in range(d1 - d0):
            x_i[d] = widen(source_i[d])
    x[rows:] = 0


@_compile
def _store(target, x, first, rows, i_h, d0, d1):
    for i in range(rows):
        x_i, target_i = x[i], target[first + i, i_h, d0:d1]
        for d in range(d1 - d0):
            target_i[d] = narrow(x_i[d], target_i[d])


@_compile
def _load_state(S, source, v0, v1):
    for i in range(source.shape[0]):
        S_i, source_i = S[i], source[i, v0:v1]
        for d in range(v1 - v0):
            S_i[d] = source_i[d]


@_compile
def _store_state(target, S, v0, v1):
    for i in range(target.shape[0]):
        S_i, target_i = S[i], target[i, v0:v1]
        for d in range(v1 - v0):
            target_i[d] = S_i[d]


@_compile
def _scale_state(S, factor, K):
    if factor != 1:
        for i in range(K):
            _scale_row(S[i], factor, S[i])


@_compile
def _scale_row(y, factor, x):
    for d in range(y.shape[0]):
        y[d] = factor * x[d]


@_compile
def _add_row(y, factor, x):
    for d in range(y.shape[0]):
        y[d] += factor * x[d]


@_compile
def _dot(x, y, size):
    x, y = x[:size], y[:size]
    total = x.dtype.type(0)
    for d in range(size):
        total += x[d] * y[d]
    return total


@_compile
def _transpose(xT, x, rows, columns):
    for i in range(rows):
        x_i = x[i]
        for d in range(columns):
            xT[d, i] = x_i[d]


@_compile
def _copy_column(row, x, j, size):
    for d in range(size):
        row[d] = x[d, j]
