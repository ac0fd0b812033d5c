# SPDX-License-Identifier: Apache-2.0
"""Triton helpers of families that work through chunks: packed sequences, blocks, products.

Chunks never cross a sequence. Chunk c of packed sequence n, of SPAN tokens, sits in slot
`start_n // SPAN + n + c`: unique without a prefix sum, so that grids follow from shapes.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import torch
import triton
import triton.language as tl

TL = {torch.float64: tl.float64, torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


@triton.jit
def bounds(cu_seqlens, i_n, T, PACKED: tl.constexpr):
    """The first token of sequence `i_n` and its number of tokens."""
    if PACKED:
        start = tl.load(cu_seqlens + i_n).to(tl.int64)
        length = tl.load(cu_seqlens + i_n + 1).to(tl.int64) - start
    else:
        start = i_n * T
        length = (T + i_n * 0).to(tl.int64)
    return start, length


@triton.jit
def first_slot(cu_seqlens, i_n, T, SPAN, PACKED: tl.constexpr):
    """The slot of a sequence's first piece of SPAN tokens; packed sequences leave slots unused."""
    if PACKED:
        slot = tl.load(cu_seqlens + i_n).to(tl.int64) // SPAN + i_n
    else:
        slot = i_n * ((T + SPAN - 1) // SPAN)
    return slot


@triton.jit
def locate(cu_seqlens, i_s, N, T, SPAN, PACKED: tl.constexpr):
    """The sequence that owns slot `i_s`, and which of its pieces of SPAN tokens sits there."""
    if PACKED:
        i_n = i_s * 0
        last = i_n + N - 1
        while i_n < last:  # bisection: the last sequence that starts at or before the slot
            middle = (i_n + last + 1) // 2
            if first_slot(cu_seqlens, middle, T, SPAN, PACKED) <= i_s:
                i_n = middle
            else:
                last = middle - 1
        i_c = i_s - first_slot(cu_seqlens, i_n, T, SPAN, PACKED)
    else:
        pieces = (T + SPAN - 1) // SPAN
        i_n = i_s // pieces
        i_c = i_s % pieces
    return i_n, i_c


@triton.jit
def inside(o, n: tl.constexpr, BLOCK: tl.constexpr):
    """Which columns of a block exist; where blocks fit exactly no mask is left in the code."""
    if n % BLOCK == 0:
        mask = tl.full([BLOCK], 1, dtype=tl.int1)
    else:
        mask = o < n
    return mask


@triton.jit
def row_block(p, o_r, m_r, i, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Numbers i ... i + BLOCK - 1 of rows at offsets `o_r`, zeros where there are none."""
    o = i + tl.arange(0, BLOCK)
    mask = m_r[:, None] & inside(o, WIDTH, BLOCK)[None, :]
    return tl.load(p + (o_r[:, None] + o[None, :]), mask=mask, other=0.0)


@triton.jit
def store_rows(p, o_r, m_r, i, x, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write numbers i ... i + BLOCK - 1 of rows at offsets `o_r`."""
    o = i + tl.arange(0, BLOCK)
    mask = m_r[:, None] & inside(o, WIDTH, BLOCK)[None, :]
    tl.store(p + (o_r[:, None] + o[None, :]), x.to(p.dtype.element_ty), mask=mask)


@triton.jit
def products(
    p_x, p_y, o_x, o_y, m_x, m_y,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """X Y' of rows of WIDTH numbers at offsets o_x and o_y."""
    x_y = tl.zeros([o_x.shape[0], o_y.shape[0]], dtype=ACC)
    for i in tl.range(0, WIDTH, BLOCK, disable_licm=True):
        b_x = row_block(p_x, o_x, m_x, i, WIDTH, BLOCK).to(DOT)
        b_y = row_block(p_y, o_y, m_y, i, WIDTH, BLOCK).to(DOT)
        x_y = tl.dot(b_x, tl.trans(b_y), x_y, input_precision=PRECISION)
    return x_y
