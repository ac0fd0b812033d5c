# SPDX-License-Identifier: Apache-2.0
"""Vectors as values inside numba kernels, for loops over time whose state should stay in registers.

The compiler makes vectors of the innermost loop only, so that a state which every lane carries
through an inner loop over time goes through memory at every step. With `load` and `store` the lanes
are explicit and plain arithmetic, fused where it can be, works on whole registers.
"""

import operator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

# Bytes of a register; where the machine has less, the compiler takes several for each vector.
_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f", False) else 32


def width(array: Any) -> int:
    """How many elements of `array` make a vector."""
    raise NotImplementedError("inside numba kernels only")


class _Vector(types.Type):
    """A register of floats; `load` makes one."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = _BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"vector({dtype} x {self.lanes})")

    def llvm_type(self) -> ir.VectorType:
        return ir.VectorType(
            ir.FloatType() if self.dtype == types.float32 else ir.DoubleType(), self.lanes
        )


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        super().__init__(manager, vector, vector.llvm_type())


def _load(typingctx: Any, row: Any, i: Any) -> Any:
    """The vector whose first element is row[i]; `row` is contiguous."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(
            _pointer(context, builder, signature, args), align=row.dtype.bitwidth // 8
        )

    return _Vector(row.dtype)(row, types.intp), generate


def _store(typingctx: Any, row: Any, i: Any, x: Any) -> Any:
    """row[i], row[i+1], ... = x; `row` is contiguous."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        builder.store(args[2], pointer, align=row.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(row, types.intp, x), generate


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    row = signature.args[0]
    data = context.make_array(row)(context, builder, args[0]).data
    return builder.bitcast(
        builder.gep(data, [args[1]]), _Vector(row.dtype).llvm_type().as_pointer()
    )


def _zeros(typingctx: Any, row: Any) -> Any:
    """A vector of zeros, of the elements of `row`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_Vector(row.dtype).llvm_type(), None)

    return _Vector(row.dtype)(row), generate


def _binary(name: str) -> Any:
    """An operation on two vectors; a product that is added becomes one instruction."""

    def operation(typingctx: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args, flags=("contract",))

        return x(x, y), generate

    return intrinsic(operation)


# Any: type checkers don't know that numba drops the first argument.
load: Any = intrinsic(_load)
store: Any = intrinsic(_store)
zeros: Any = intrinsic(_zeros)
_added, _subtracted, _multiplied = (_binary(name) for name in ("fadd", "fsub", "fmul"))


@overload(width)
def _width(array):
    lanes = _Vector(array.dtype).lanes
    return lambda array: lanes


@overload(operator.add)
def _add(x, y):
    return (lambda x, y: _added(x, y)) if isinstance(x, _Vector) else None


@overload(operator.sub)
def _sub(x, y):
    return (lambda x, y: _subtracted(x, y)) if isinstance(x, _Vector) else None


@overload(operator.mul)
def _mul(x, y):
    return (lambda x, y: _multiplied(x, y)) if isinstance(x, _Vector) else None
