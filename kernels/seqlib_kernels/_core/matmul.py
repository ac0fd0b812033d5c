# SPDX-License-Identifier: Apache-2.0
"""Small matrix products inside numba kernels, at the speed of the vector units.

A compiler can't turn a plain triple loop over arrays that may overlap into one that keeps its
sums in registers, so the innermost tile, 4 rows by 64 bytes of columns, is written down here.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 4  # of a tile
VECTOR_BYTES = 64  # of a row of a tile: arrays that take part are padded to a multiple of it


def _product_tile(
    typingctx: Any,
    c: Any,
    ic: Any,
    a: Any,
    ia: Any,
    down: Any,
    right: Any,
    b: Any,
    ib: Any,
    depth: Any,
    keep: Any,
) -> Any:
    """c tile at ic = keep * itself + sum over l < depth of a[ia + i*down + l*right] b[l, at ib]."""
    if not (c.dtype == a.dtype == b.dtype and c.dtype in (types.float32, types.float64)):
        return None
    if not all(x.layout == "C" and x.ndim == 2 for x in (c, a, b)):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        c, ic, a, ia, down, right, b, ib, depth, keep = args
        number = context.get_data_type(signature.args[0].dtype)
        size = signature.args[0].dtype.bitwidth // 8
        vector = ir.VectorType(number, VECTOR_BYTES // size)
        multiply_add = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, (vector,) * 3),
            f"llvm.fmuladd.v{vector.count}f{8 * size}",
        )

        def start(i: int, x: Any, offset: Any) -> tuple[Any, Any]:
            array = context.make_array(signature.args[i])(context, builder, x)
            columns = cgutils.unpack_tuple(builder, array.shape)[1]
            return builder.gep(array.data, [offset]), columns

        def as_vector(pointer: Any) -> Any:
            return builder.bitcast(pointer, vector.as_pointer())

        def load(pointer: Any) -> Any:
            return builder.load(as_vector(pointer), align=size)

        c_at, c_columns = start(0, c, ic)
        a_at, _ = start(2, a, ia)
        b_at, b_columns = start(6, b, ib)
        rows = [ir.Constant(ic.type, i) for i in range(ROWS)]
        targets = [builder.gep(c_at, [builder.mul(i, c_columns)]) for i in rows]
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)

        def splat(factor: Any) -> Any:
            first = ir.Constant(ir.IntType(32), 0)
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), factor, first)
            return builder.shuffle_vector(one, one, lanes)

        nothing = ir.Constant(vector, None)
        kept = builder.fcmp_unordered("!=", keep, ir.Constant(number, 0.0))
        factor = splat(keep)
        sums = [
            cgutils.alloca_once_value(
                builder, builder.select(kept, builder.fmul(factor, load(target)), nothing)
            )
            for target in targets
        ]
        with cgutils.for_range(builder, depth, intp=ic.type) as loop:
            b_row = load(builder.gep(b_at, [builder.mul(loop.index, b_columns)]))
            a_column = builder.gep(a_at, [builder.mul(loop.index, right)])
            for i, total in zip(rows, sums, strict=True):
                factor = splat(builder.load(builder.gep(a_column, [builder.mul(i, down)])))
                product = builder.call(multiply_add, (factor, b_row, builder.load(total)))
                builder.store(product, total)
        for target, total in zip(targets, sums, strict=True):
            builder.store(builder.load(total), as_vector(target), align=size)
        return context.get_dummy_value()

    size = types.intp
    return types.void(c, size, a, size, size, size, b, size, size, c.dtype), generate


# Any: type checkers don't know that numba drops the first argument.
_tile: Any = intrinsic(_product_tile)

_compile = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@_compile
def product(c, a, b, first, last, start, stop, keep):
    """c[first:last] = keep * c[first:last] + a[first:last, start:stop] @ b[start:stop].

    All three are C-contiguous and of one dtype. The columns of c are a multiple of VECTOR_BYTES
    and b has no fewer; c and a have room for a multiple of ROWS past `first`. Rows past `last` up
    to there are written too and may hold anything. With keep = 0 nothing is read from c.
    """
    product_columns(c, a, b, c.shape[1], first, last, start, stop, keep)


@_compile
def product_transposed(c, a, b, first, last, start, stop, keep):
    """c[first:last] = keep * c[first:last] + a[start:stop, first:last].T @ b[start:stop]."""
    product_transposed_columns(c, a, b, c.shape[1], first, last, start, stop, keep)


@_compile
def product_columns(c, a, b, columns, first, last, start, stop, keep):
    """`product` of the first columns of c, a multiple of VECTOR_BYTES.

    Where rows are an odd number of VECTOR_BYTES apart, tall columns don't share cache sets: then
    products of large matrices run at the speed of small ones.
    """
    width = VECTOR_BYTES // c.itemsize
    n_c, n_a, n_b, depth = c.shape[1], a.shape[1], b.shape[1], stop - start
    keep = c.dtype.type(keep)
    for j in range(0, columns, width):
        for i in range(first, last, ROWS):
            _tile(c, i * n_c + j, a, i * n_a + start, n_a, 1, b, start * n_b + j, depth, keep)


@_compile
def product_transposed_columns(c, a, b, columns, first, last, start, stop, keep):
    """`product_transposed` of the first columns of c, as above."""
    width = VECTOR_BYTES // c.itemsize
    n_c, n_a, n_b, depth = c.shape[1], a.shape[1], b.shape[1], stop - start
    keep = c.dtype.type(keep)
    for j in range(0, columns, width):
        for i in range(first, last, ROWS):
            _tile(c, i * n_c + j, a, start * n_a + i, 1, n_a, b, start * n_b + j, depth, keep)
