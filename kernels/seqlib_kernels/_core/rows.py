# SPDX-License-Identifier: Apache-2.0
"""What chunked CPU kernels do to rows of small work arrays.

Loops are written out: the compiler makes vectors of them, and no temporary array appears. Arrays
that enter the products of `matmul.py` are padded to whole tiles; what padding holds never reaches
a row or column that counts, because sums stop at the true sizes.
"""

from numba import njit

# NaN must pass through: of the fast-math licences only fused multiply-add and the order of sums.
compile_kernel = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})

WIDTH = 16  # rows and columns are padded to multiples of this many, whole tiles in any dtype


@compile_kernel
def padded(size):
    return (size + WIDTH - 1) // WIDTH * WIDTH


@compile_kernel
def load_rows(x, source, first, rows, i_h, d0, d1):
    for i in range(rows):
        source_i = source[first + i, i_h, d0:d1]
        for d in range(d1 - d0):
            x[i, d] = source_i[d]


@compile_kernel
def store_rows(target, x, first, rows, i_h, d0, d1):
    for i in range(rows):
        target_i = target[first + i, i_h, d0:d1]
        for d in range(d1 - d0):
            target_i[d] = x[i, d]


@compile_kernel
def add_to_rows(target, x, first, rows, i_h, d0, d1):
    for i in range(rows):
        target_i = target[first + i, i_h, d0:d1]
        for d in range(d1 - d0):
            target_i[d] += x[i, d]


@compile_kernel
def load_state(S, source, v0, v1):
    for i in range(source.shape[0]):
        source_i = source[i, v0:v1]
        for d in range(v1 - v0):
            S[i, d] = source_i[d]


@compile_kernel
def store_state(target, S, v0, v1):
    for i in range(target.shape[0]):
        target_i = target[i, v0:v1]
        for d in range(v1 - v0):
            target_i[d] = S[i, d]


@compile_kernel
def clear(x):
    for i in range(x.shape[0]):
        for d in range(x.shape[1]):
            x[i, d] = 0


@compile_kernel
def scale_all(x, rows, factor):
    factor = x.dtype.type(factor)
    if factor != 1:
        for i in range(rows):
            for d in range(x.shape[1]):
                x[i, d] *= factor


@compile_kernel
def scale_rows(y, factors, negative, x, rows):
    """y_i = factor_i x_i, or its negative"""
    for i in range(rows):
        factor = -factors[i] if negative else factors[i]
        for d in range(y.shape[1]):
            y[i, d] = factor * x[i, d]


@compile_kernel
def add_row(x, i, factor, j):
    """x_i += factor x_j"""
    for d in range(x.shape[1]):
        x[i, d] += factor * x[j, d]


@compile_kernel
def add_row_of(y, i, factor, x):
    """y_i += factor x_i"""
    for d in range(y.shape[1]):
        y[i, d] += factor * x[i, d]


@compile_kernel
def add_rows(y, x, rows):
    for i in range(rows):
        for d in range(y.shape[1]):
            y[i, d] += x[i, d]


@compile_kernel
def scale_row(x, i, factor):
    for d in range(x.shape[1]):
        x[i, d] *= factor


@compile_kernel
def copy(y, x):
    for i in range(y.shape[0]):
        for d in range(y.shape[1]):
            y[i, d] = x[i, d]


@compile_kernel
def dot_columns(dots, x, y):
    """dots_j = the product of columns j of x and y"""
    dots[:] = 0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            dots[j] += x[i, j] * y[i, j]


@compile_kernel
def sum_rows(x, rows):
    total = x.dtype.type(0)
    for i in range(rows):
        for d in range(x.shape[1]):
            total += x[i, d]
    return total


@compile_kernel
def dot(x, y, rows):
    total = x.dtype.type(0)
    for i in range(rows):
        total += dot_row(x, y, i, x.shape[1])
    return total


@compile_kernel
def dot_row(x, y, i, size):
    total = x.dtype.type(0)
    for d in range(size):
        total += x[i, d] * y[i, d]
    return total


@compile_kernel
def transpose(xT, x, rows, columns):
    for i in range(rows):
        for d in range(columns):
            xT[d, i] = x[i, d]
