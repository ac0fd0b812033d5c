# SPDX-License-Identifier: Apache-2.0
"""Complex arithmetic in Triton kernels: real and imaginary parts apart, in memory pairs or planes.

Planes of M numbers lie M apart: the real parts, then the imaginary parts.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def product(x_re, x_im, y_re, y_im):
    """x y"""
    return x_re * y_re - x_im * y_im, x_re * y_im + x_im * y_re


@triton.jit
def then(ar1, ai1, xr1, xi1, ar2, ai2, xr2, xi2):
    """First x -> a1 x + x1, then x -> a2 x + x2."""
    return (
        ar2 * ar1 - ai2 * ai1,
        ar2 * ai1 + ai2 * ar1,
        ar2 * xr1 - ai2 * xi1 + xr2,
        ar2 * xi1 + ai2 * xr1 + xi2,
    )


@triton.jit
def plane(table, o, m, i: tl.constexpr, M: tl.constexpr):
    """Plane i of numbers kept as planes of M."""
    return tl.load(table + o + i * M, mask=m, other=0.0)


@triton.jit
def write_planes(table, o, m, re, im, M: tl.constexpr):
    """Real and imaginary parts into two planes of M."""
    tl.store(table + o, re.to(table.dtype.element_ty), mask=m)
    tl.store(table + o + M, im.to(table.dtype.element_ty), mask=m)


@triton.jit
def load_pair(x, o, m):
    """Complex numbers kept as pairs."""
    return tl.load(x + 2 * o, mask=m, other=0.0), tl.load(x + 2 * o + 1, mask=m, other=0.0)


@triton.jit
def store_pair(x, o, m, re, im):
    """Real and imaginary parts as pairs."""
    tl.store(x + 2 * o, re, mask=m)
    tl.store(x + 2 * o + 1, im, mask=m)


@triton.jit
def powers_before(a_re, a_im, o_k):
    """a^(k - 1) for k from 1, and 1 for k = 0: [BT, BM]. Products only, so that a may be 0."""
    re = tl.where(o_k < 2, 1.0, a_re)
    im = tl.where(o_k < 2, 0.0, a_im)
    return tl.associative_scan((re, im), 0, product)


@triton.jit
def after(p_re, p_im, a_re, a_im, o_k):
    """a^k from `powers_before`."""
    re, im = product(p_re, p_im, a_re, a_im)
    return tl.where(o_k == 0, 1.0, re), tl.where(o_k == 0, 0.0, im)
