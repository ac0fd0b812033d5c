# SPDX-License-Identifier: Apache-2.0
"""16-bit floats inside numba kernels: read and written as they are stored, computed as float32.

numba knows neither bfloat16 nor, on CPUs, float16. Kernels see bfloat16 as uint16 and float16 as
int16, and turn every element into a number with `widen` and back with `narrow`; both compile to
a few vector instructions, and to nothing at all for the other dtypes.
"""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

_AS_STORED = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def array(x: Tensor) -> np.ndarray:
    """The memory of a CPU tensor as numba sees it."""
    return x.detach().view(_AS_STORED.get(x.dtype, x.dtype)).numpy()


def rows(x: Tensor) -> np.ndarray:
    """The memory of a CPU tensor [B, T, ...] as rows [B*T, ...]."""
    return array(x.flatten(0, 1))


def _widen(typingctx: Any, x: Any) -> Any:
    """A stored element as a number: float32 for 16-bit storage, unchanged otherwise."""
    if x == types.uint16:

        def from_bfloat16(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = builder.shl(builder.zext(args[0], ir.IntType(32)), _int32(16))
            return builder.bitcast(bits, ir.FloatType())

        return types.float32(x), from_bfloat16
    if x == types.int16:

        def from_float16(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

        return types.float32(x), from_float16
    return x(x), _unchanged


def _narrow(typingctx: Any, x: Any, like: Any) -> Any:
    """The number `x` as an element stored beside `like`, rounded to nearest, ties to even."""
    if like == types.uint16:

        def to_bfloat16(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = builder.bitcast(args[0], ir.IntType(32))
            odd = builder.and_(builder.lshr(bits, _int32(16)), _int32(1))
            rounded = builder.add(bits, builder.add(odd, _int32(0x7FFF)))
            is_nan = builder.fcmp_unordered("uno", args[0], args[0])
            kept = builder.select(is_nan, _int32(0x7FC00000), rounded)
            return builder.trunc(builder.lshr(kept, _int32(16)), ir.IntType(16))

        return types.uint16(types.float32, like), to_bfloat16
    if like == types.int16:

        def to_float16(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

        return types.int16(types.float32, like), to_float16
    return x(x, like), _unchanged


# Any: type checkers don't know that numba drops the first argument.
widen: Any = intrinsic(_widen)
narrow: Any = intrinsic(_narrow)


def state_row(stored: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """Where a row of states is kept at full precision: in `stored` itself if that is wide enough.

    Kernels write states there and read them back for the next step, and hand each of them to
    `keep` as well. That way a state that is also an output is written once.
    """
    raise NotImplementedError("inside numba kernels only")


def keep(stored: np.ndarray, d: int, x: Any) -> None:
    """Store state `x` as element d of a 16-bit row; `state_row` was the row itself otherwise."""
    raise NotImplementedError("inside numba kernels only")


@overload(state_row)
def _state_row(stored, scratch):
    if stored.dtype in (types.uint16, types.int16):
        return lambda stored, scratch: scratch
    return lambda stored, scratch: stored


@overload(keep)
def _keep(stored, d, x):
    if stored.dtype in (types.uint16, types.int16):

        def keep(stored, d, x):
            stored[d] = narrow(x, stored[d])

        return keep
    return lambda stored, d, x: None


def _unchanged(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return args[0]


def _int32(value: int) -> Any:
    return ir.Constant(ir.IntType(32), value)
