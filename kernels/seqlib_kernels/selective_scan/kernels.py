# SPDX-License-Identifier: Apache-2.0
# Triton reads these functions differently from Python:
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
"""Triton kernels of the selective scan: one launch forward, one backward and two for its sums.

A program takes BD channels of one group and sequence and walks through its time in tiles of BT
steps. Inside a tile it takes one state index n after the other: an associative scan over the
tile. What a tile hands to the next, N states per channel, passes through memory, where the
states also stay for the backward pass. Threads read what others wrote only behind a barrier, one
per tile; what is overwritten between barriers was computed from what stood there.
"""

import triton
import triton.language as tl
from torch import Tensor

from .._core import alloc
from .._core.kernels_math import sigmoid
from .arguments import Tensors
from .launch import LAUNCH

SUM = 256  # elements that one program of the sums adds up


def forward(
    given: Tensors, dt_softplus: bool, negative_eigenvalues: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,D], hT [Nseq,D,N] and the states kept for `backward`; see `op.py`."""
    plan, A = _Plan(given), given.A
    D, N = A.shape
    y, hT = alloc.empty(given.u.shape, given.u), alloc.empty((plan.sequences, D, N), A)
    states = alloc.empty(plan.states if save else (plan.sequences, N, D), A)
    if plan.grid[0]:
        _scan[plan.grid](
            *given, y, hT, states, *plan.sizes,
            SOFTPLUS=dt_softplus, NEGATIVE=negative_eigenvalues, KEEP=save,
            **plan.row.options("scan"),
        )  # fmt: skip
    return y, hT, states if save else A.new_empty((0, N, D))


def backward(
    dy: Tensor,
    dhT: Tensor,
    given: Tensors,
    states: Tensor,
    dt_softplus: bool,
    negative_eigenvalues: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of u, dt, A, B, C, D, z, dt_bias and h0; see `op.py`."""
    plan, A, B = _Plan(given), given.A, given.B
    D, N = A.shape
    du, ddt, dA, dB, dC, dD, dz, ddt_bias = (
        None if x is None else alloc.empty(x.shape, x) for x in given[:-2]
    )
    dh0 = alloc.empty(dhT.shape, dhT)
    # Blocks of channels share in dB and dC, sequences in dA, dD and ddt_bias: parts in a fixed
    # order, without atomics. `sums` holds the latter, and what a tile hands to the one before.
    parts = alloc.empty((plan.blocks, 2, *B.shape), A)
    sums = alloc.empty((plan.sequences, 2 * N + 2, D), A)
    if plan.grid[0]:
        _adjoint[plan.grid](
            dy, dhT, *given[:-2], given.cu_seqlens, states,
            du, ddt, dz, parts, sums, *plan.sizes, B.numel(),
            SOFTPLUS=dt_softplus, NEGATIVE=negative_eigenvalues, **plan.row.options("adjoint"),
        )  # fmt: skip
    options = {"BLOCK": SUM, **plan.row.compile_options("sums")}
    if B.numel():
        grid = (triton.cdiv(B.numel(), SUM),)
        _sum_blocks[grid](parts, dB, dC, B.numel(), plan.blocks, **options)
    if D:
        grid = (triton.cdiv(D, SUM), N + 2)
        _sum_sequences[grid](sums, dA, dD, ddt_bias, dh0, plan.sequences, D, N, **options)
    return du, ddt, dA, dB, dC, dD, dz, ddt_bias, dh0


class _Plan:
    """The launch of one call: programs are numbered [sequence, group, block of channels]."""

    def __init__(self, given: Tensors) -> None:
        T, D = given.u.shape[1:]
        groups, N = given.B.shape[2:]
        self.row = LAUNCH.pick(given.u, D)
        self.sequences = given.sequences
        self.states = given.states_shape(self.row.tiles["BT"])
        self.blocks = triton.cdiv(D // groups, self.row.tiles["BD"])
        # One axis: the second axis of a CUDA grid ends at 65535.
        self.grid = (self.sequences * groups * self.blocks,)
        self.sizes = (T, D, groups, N)


@triton.jit(do_not_specialize=["T"])
def _scan(
    u, dt, A, B, C, skip, z, dt_bias, h0, cu_seqlens, y, hT, states,
    T, D, G, N,
    SOFTPLUS: tl.constexpr, NEGATIVE: tl.constexpr, KEEP: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """h[t] = a[t] h[t-1] + Delta[t] u[t] B[t];  y[t] = (h[t].C[t] + D u[t]) silu(z[t])"""
    ACC: tl.constexpr = hT.dtype.element_ty
    i_n, first, length, i_g, _block, o_d, m_d = _program(cu_seqlens, T, D, G, BD)
    o_t = tl.arange(0, BT)[:, None]
    o = o_t * D + o_d
    o_s = o_t * (G * N)
    bias = _row(dt_bias, o_d, m_d, ACC)
    slot = first // BT + i_n if KEEP else i_n
    o_h = (i_n * D + o_d) * N
    for n in tl.range(0, N, disable_licm=True):
        if h0 is not None:
            h = tl.load(h0 + o_h + n, mask=m_d, other=0.0).to(ACC)
        else:
            h = tl.zeros([1, BD], ACC)
        tl.store(hT + o_h + n, h, mask=m_d)
        m_any = m_d & (0 * o_d < length)  # an empty sequence has no slot
        tl.store(states + (slot * N + n) * D + o_d, h, mask=m_any)
    tl.debug_barrier()  # other threads wrote what this one reads

    for i in tl.range(0, length, BT):
        row = first + i
        m_t = i + o_t < length
        m = m_t & m_d
        o_row = row * D
        _x, delta = _step_sizes(dt + o_row + o, m, bias, SOFTPLUS, ACC)
        b_u = tl.load(u + o_row + o, mask=m, other=0.0).to(ACC)
        taken = delta * b_u
        b_y = _row(skip, o_d, m_d, ACC) * b_u
        after = slot + 1 if KEEP else slot
        for n in tl.range(0, N, disable_licm=True):
            o_bc = (row * G + i_g) * N + n
            b = tl.load(B + o_bc + o_s, mask=m_t, other=0.0).to(ACC)
            c = tl.load(C + o_bc + o_s, mask=m_t, other=0.0).to(ACC)
            rate = tl.load(A + o_d * N + n, mask=m_d, other=0.0).to(ACC)
            h = tl.load(states + (slot * N + n) * D + o_d, mask=m_d, other=0.0)
            _slope, a = _decay(delta, rate, NEGATIVE)
            h = tl.where(o_t == 0, a * h + taken * b, taken * b)
            _product, h = tl.associative_scan((a, h), 0, _then)
            b_y += h * c
            h = tl.sum(tl.where(o_t == BT - 1, h, 0.0), 0, keep_dims=True)
            tl.store(states + (after * N + n) * D + o_d, h, mask=m_d & (0 * o_d + i + BT < length))
            tl.store(hT + o_h + n, h, mask=m_d & (0 * o_d + i + BT >= length))
        tl.debug_barrier()
        slot = after
        if z is not None:
            gate = tl.load(z + o_row + o, mask=m, other=0.0).to(ACC)
            b_y *= gate * sigmoid(gate)
        tl.store(y + o_row + o, b_y.to(y.dtype.element_ty), mask=m)


@triton.jit(do_not_specialize=["T", "part"])
def _adjoint(
    dy, dhT, u, dt, A, B, C, skip, z, dt_bias, cu_seqlens, states,
    du, ddt, dz, parts, sums,
    T, D, G, N, part,
    SOFTPLUS: tl.constexpr, NEGATIVE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """g[t] = dh[t] + a[t+1] g[t+1], and every gradient from g[t] and h[t-1]: see README.md.

    Rows one step earlier and later are loaded and discretised again, which is cheaper than to
    move them between threads.
    """
    ACC: tl.constexpr = dhT.dtype.element_ty
    i_n, first, length, i_g, i_b, o_d, m_d = _program(cu_seqlens, T, D, G, BD)
    o_t = tl.arange(0, BT)[:, None]
    o = o_t * D + o_d
    o_s = o_t * (G * N)
    bias = _row(dt_bias, o_d, m_d, ACC)
    b_skip = _row(skip, o_d, m_d, ACC)
    o_h = (i_n * D + o_d) * N
    sums += i_n * (2 * N + 2) * D
    parts += 2 * i_b.to(tl.int64) * part
    for n in tl.range(0, N, disable_licm=True):
        q = tl.load(dhT + o_h + n, mask=m_d, other=0.0)
        tl.store(sums + n * D + o_d, tl.zeros([1, BD], ACC), mask=m_d)
        tl.store(sums + (N + 2 + n) * D + o_d, q, mask=m_d)
    tl.debug_barrier()  # other threads wrote what this one reads

    dskip = tl.zeros([1, BD], ACC)
    dbias = tl.zeros([1, BD], ACC)
    tiles = tl.cdiv(length, BT)
    states += (first // BT + i_n + tiles) * N * D
    row = first + tiles * BT
    rest = length - tiles * BT  # of the steps, from the tile on
    for _ in tl.range(0, tiles):
        states -= N * D
        row -= BT
        rest += BT
        m_t = o_t < rest
        # The row before a tile is read, if there is one, but nothing of it is used.
        m_before = (o_t <= rest) & (o_t + row > 0)
        m_after = o_t + 1 < rest
        m = m_t & m_d
        o_row = row * D
        _x, delta = _step_sizes(dt + o_row + o, m, bias, SOFTPLUS, ACC)
        _x, d_before = _step_sizes(dt + o_row - D + o, m_before & m_d, bias, SOFTPLUS, ACC)
        _x, d_after = _step_sizes(dt + o_row + D + o, m_after & m_d, bias, SOFTPLUS, ACC)
        b_u = tl.load(u + o_row + o, mask=m, other=0.0).to(ACC)
        before = d_before * tl.load(u + o_row - D + o, mask=m_before & m_d, other=0.0).to(ACC)
        b_dy = tl.load(dy + o_row + o, mask=m, other=0.0).to(ACC)
        if z is not None:
            gate = tl.load(z + o_row + o, mask=m, other=0.0).to(ACC)
            b_dy *= gate * sigmoid(gate)
        read = b_skip * b_u
        d_input = tl.zeros([BT, BD], ACC)
        d_delta = tl.zeros([BT, BD], ACC)
        for n in tl.range(0, N, disable_licm=True):
            o_bc = (row * G + i_g) * N + n
            b = tl.load(B + o_bc + o_s, mask=m_t, other=0.0).to(ACC)
            b_before = tl.load(B + o_bc - G * N + o_s, mask=m_before, other=0.0).to(ACC)
            c = tl.load(C + o_bc + o_s, mask=m_t, other=0.0).to(ACC)
            rate = tl.load(A + o_d * N + n, mask=m_d, other=0.0).to(ACC)
            h = tl.load(states + n * D + o_d, mask=m_d, other=0.0)
            # h[t-1]: the scan of the steps before, which starts from the tile's first state
            _slope, a = _decay(d_before, rate, NEGATIVE)
            h = tl.where(o_t == 0, h, before * b_before)
            _product, h = tl.associative_scan((a, h), 0, _then)
            q = tl.load(sums + (N + 2 + n) * D + o_d, mask=m_d, other=0.0)
            # g[t]; past the end of the sequence a = 1 hands dhT on to its last step
            _slope, a = _decay(d_after, rate, NEGATIVE)
            g = tl.where(o_t == BT - 1, b_dy * c + q, b_dy * c)
            _product, g = tl.associative_scan((a, g), 0, _then, reverse=True)
            slope, a = _decay(delta, rate, NEGATIVE)
            q = tl.sum(tl.where(o_t == 0, a * g, 0.0), 0, keep_dims=True)
            tl.store(sums + (N + 2 + n) * D + o_d, q, mask=m_d)
            w = g * slope * h
            d_delta += w * rate
            p = tl.sum(w * delta, 0, keep_dims=True)
            p += tl.load(sums + n * D + o_d, mask=m_d, other=0.0)
            tl.store(sums + n * D + o_d, p, mask=m_d)
            d_input += g * b
            p = tl.sum(g * delta * b_u, 1, keep_dims=True)
            tl.store(parts + o_bc + o_s, p, mask=m_t)
            h = a * h + delta * b_u * b
            read += h * c
            p = tl.sum(b_dy * h, 1, keep_dims=True)
            tl.store(parts + part + o_bc + o_s, p, mask=m_t)
        tl.debug_barrier()
        dskip += tl.sum(b_dy * b_u, 0, keep_dims=True)
        b_du = delta * d_input + b_skip * b_dy
        tl.store(du + o_row + o, b_du.to(du.dtype.element_ty), mask=m)
        d_delta += b_u * d_input
        if SOFTPLUS:
            # Loaded again: as many registers would spill.
            x, _delta = _step_sizes(dt + o_row + o, m, bias, SOFTPLUS, ACC)
            d_delta *= tl.where(x > 20, 1.0, sigmoid(x))
        d_delta = tl.where(m, d_delta, 0.0)
        dbias += tl.sum(d_delta, 0, keep_dims=True)
        tl.store(ddt + o_row + o, d_delta.to(ddt.dtype.element_ty), mask=m)
        if z is not None:
            gate = tl.load(z + o_row + o, mask=m, other=0.0).to(ACC)
            s = sigmoid(gate)
            b_dz = tl.load(dy + o_row + o, mask=m, other=0.0).to(ACC) * read
            b_dz *= s * (1 + gate * (1 - s))
            tl.store(dz + o_row + o, b_dz.to(dz.dtype.element_ty), mask=m)
    tl.store(sums + N * D + o_d, dskip, mask=m_d)
    tl.store(sums + (N + 1) * D + o_d, dbias, mask=m_d)


@triton.jit(do_not_specialize=["size"])
def _sum_blocks(parts, dB, dC, size, blocks, BLOCK: tl.constexpr):
    """dB and dC from their parts [blocks, 2, size], block of channels after block of channels."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = i < size
    b = tl.zeros([BLOCK], parts.dtype.element_ty)
    c = tl.zeros([BLOCK], parts.dtype.element_ty)
    for _ in tl.range(0, blocks):
        b += tl.load(parts + i, mask=m, other=0.0)
        c += tl.load(parts + size + i, mask=m, other=0.0)
        parts += 2 * size
    tl.store(dB + i, b.to(dB.dtype.element_ty), mask=m)
    tl.store(dC + i, c.to(dC.dtype.element_ty), mask=m)


@triton.jit(do_not_specialize=["sequences"])
def _sum_sequences(sums, dA, dD, ddt_bias, dh0, sequences, D, N, BLOCK: tl.constexpr):
    """dA, dD, ddt_bias and dh0 from sums [sequences, 2N + 2, D].

    Its first N + 2 rows are parts of the former, the others dh0; a program takes one row of parts.
    """
    o_d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1) + 0 * o_d
    m = o_d < D
    m_n = m & (row < N)
    total = tl.zeros([BLOCK], sums.dtype.element_ty)
    for _ in tl.range(0, sequences):
        total += tl.load(sums + row * D + o_d, mask=m, other=0.0)
        q = tl.load(sums + (N + 2 + row) * D + o_d, mask=m_n, other=0.0)
        tl.store(dh0 + o_d * N + row, q, mask=m_n)
        sums += (2 * N + 2) * D
        dh0 += D * N
    tl.store(dA + o_d * N + row, total, mask=m_n)
    if dD is not None:
        tl.store(dD + o_d, total, mask=m & (row == N))
    if ddt_bias is not None:
        tl.store(ddt_bias + o_d, total, mask=m & (row == N + 1))


@triton.jit
def _program(cu_seqlens, T, D, G, BD: tl.constexpr):
    """This program's sequence, its first row and length, group, block, channels and their mask."""
    width = D // G
    blocks = tl.cdiv(width, BD)
    i_n = (tl.program_id(0) // (G * blocks)).to(tl.int64)  # N*T*D passes 2**31
    i_g = tl.program_id(0) // blocks % G
    i_b = tl.program_id(0) % blocks
    o_w = i_b * BD + tl.arange(0, BD)[None, :]
    if cu_seqlens is not None:
        first = tl.load(cu_seqlens + i_n).to(tl.int64)
        length = (tl.load(cu_seqlens + i_n + 1) - first).to(tl.int32)
    else:
        first = i_n * T
        length = T
    return i_n, first, length, i_g, i_b, i_g * width + o_w, o_w < width


@triton.jit
def _row(x, o_d, m_d, ACC: tl.constexpr):
    """One number per channel, [1, BD]; zeros where there is no such argument."""
    if x is not None:
        return tl.load(x + o_d, mask=m_d, other=0.0).to(ACC)
    return tl.zeros_like(o_d).to(ACC)


@triton.jit
def _step_sizes(dt, m, bias, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """dt + dt_bias, and Delta: zero outside of `m`, a step that changes nothing."""
    x = tl.load(dt, mask=m, other=0.0).to(ACC) + bias
    delta = x
    if SOFTPLUS:
        # log(1 + e) e / ((1 + e) - 1) is exact to rounding for small e too, where log(1 + e) isn't
        e = tl.exp(-tl.abs(x))
        w = 1 + e
        e = tl.where(w == 1, e, tl.log(w) * (e / tl.where(w == 1, 1.0, w - 1)))
        delta = tl.where(x > 20, x, tl.where(x > 0, x + e, e))
    return x, tl.where(m, delta, 0.0)


@triton.jit
def _decay(delta, rate, NEGATIVE: tl.constexpr):
    """The derivative of a by Delta A, and a itself."""
    e = tl.exp(delta * rate)
    if NEGATIVE:
        return 2 * e, 2 * e - 1
    return e, e


@triton.jit
def _then(a1, b1, a2, b2):
    """First h -> a1 h + b1, then h -> a2 h + b2."""
    return a2 * a1, a2 * b1 + b2
