# SPDX-License-Identifier: Apache-2.0
"""exp, softplus and sigmoid inside numba kernels, in loops that the compiler turns into vectors.

The exponential of the C library costs ten times as much, because it takes one number per call.
These are branch-free for float32; float64, which serves tests, calls the C library. NaN stays NaN.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

LINEAR = 20  # beyond it softplus is the identity, as in torch

# exp(x) = 2^k exp(r) with |r| <= log(2) / 2, and exp(r) = 1 + r + r^2 q(r) with relative error
# 3e-9, q found by Remez' algorithm.
_LOWEST, _HIGHEST = np.float32(-104), np.float32(89)  # exp is 0 below and infinite above
_PER_LOG_2 = np.float32(1 / math.log(2))
_LOG_2 = np.float32(0.693359375)  # has so few bits that k log(2) is exact; the rest follows
_LOG_2_REST = np.float32(math.log(2) - 0.693359375)
_Q0, _Q1, _Q2, _Q3, _Q4 = (
    np.float32(q)
    for q in (
        0.4999999403953552,
        0.1666652113199234,
        0.04166838899254799,
        0.008368716575205326,
        0.001381459878757596,
    )
)
# log(1 + e) = 2 artanh(s) with s = e / (2 + e) <= 1/3: 2 s (1 + s^2/3 + ... + s^14/15)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = (np.float32(2 / (2 * k + 1)) for k in range(8))
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


def exp(x: Any) -> Any:
    """exp(x), at most 1 unit in the last place off for float32; underflow is gradual."""
    raise NotImplementedError("inside numba kernels only")


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), and x beyond LINEAR; relative to a small result as exact as to a large."""
    raise NotImplementedError("inside numba kernels only")


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))"""
    raise NotImplementedError("inside numba kernels only")


def softplus_slope(x: Any) -> Any:
    """The derivative of `softplus`."""
    raise NotImplementedError("inside numba kernels only")


@overload(exp)
def _exp(x):
    if x == types.float32:

        def exp(x):
            # NaN takes the first bound, and its own place again at the end.
            inside = x if x > _LOWEST else _LOWEST
            inside = inside if inside < _HIGHEST else _HIGHEST
            k = _nearest(inside * _PER_LOG_2)
            r = inside - k * _LOG_2
            r = r - k * _LOG_2_REST
            q = (((_Q4 * r + _Q3) * r + _Q2) * r + _Q1) * r + _Q0
            y = _scaled(r * r * q + r + _ONE, k)
            return y if x == x else x  # NaN

        return exp
    return lambda x: math.exp(x)


@overload(softplus)
def _softplus(x):
    if x == types.float32:

        def softplus(x):
            e = exp(-abs(x))
            s = e / (_TWO + e)
            w = s * s
            q = (((((((_L7 * w + _L6) * w) + _L5) * w + _L4) * w + _L3) * w + _L2) * w + _L1) * w
            y = s * (q + _L0)
            y = y + x if x > _ZERO else y
            return x if x > LINEAR else y

        return softplus
    return lambda x: x if x > LINEAR else max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@overload(sigmoid)
def _sigmoid(x):
    one = np.float32(1) if x == types.float32 else 1.0

    def sigmoid(x):
        e = exp(-abs(x))
        return (e if x < 0 else one) / (one + e)

    return sigmoid


@overload(softplus_slope)
def _softplus_slope(x):
    one = np.float32(1) if x == types.float32 else 1.0
    return lambda x: one if x > LINEAR else sigmoid(x)


def _rint(typingctx: Any, x: Any) -> Any:
    """`x` rounded to an integer, still a float."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()])
        return builder.call(function, args)

    return types.float32(types.float32), generate


def _scale(typingctx: Any, x: Any, k: Any) -> Any:
    """x 2^k for whole -150 <= k <= 129; in two factors, because one could not be so small."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, k = args
        i32, f32 = ir.IntType(32), ir.FloatType()
        exponent = builder.fptosi(k, i32)
        half = builder.ashr(exponent, ir.Constant(i32, 1))
        for part in (half, builder.sub(exponent, half)):
            bits = builder.shl(builder.add(part, ir.Constant(i32, 127)), ir.Constant(i32, 23))
            x = builder.fmul(x, builder.bitcast(bits, f32))
        return x

    return types.float32(types.float32, types.float32), generate


# Any: type checkers don't know that numba drops the first argument.
_nearest: Any = intrinsic(_rint)
_scaled: Any = intrinsic(_scale)
