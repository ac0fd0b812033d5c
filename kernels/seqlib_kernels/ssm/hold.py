# SPDX-License-Identifier: Apache-2.0
"""A zero-order hold: the exact solution of x' = A x + B u over a step of constant u.

An operator, because a series replaces the quotient near A = 0: as small torch operations that
autograd records, it would cost more than the rest of a short layer. Inside are complex numbers.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._core.ops import define_op

# (e^z - 1) / z = e^{z/2} S(z^2/4) with S(s) = sum of s^k / (2k+1)!, where the quotient, and still
# more its derivative, cancel. The next term is below 3e-21.
_NEAR = 0.25
_SERIES = tuple(1 / math.factorial(2 * k + 1) for k in range(6))
_SLOPE = tuple(k * _SERIES[k] for k in range(1, 6))


def hold(A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """e^{step A} and (e^{step A} - 1) / A, which is step at A = 0, with exact derivatives.

    Args:
        A: pairs [..., 2].
        step: [...], of one shape with A without its last axis.
    """
    return _Hold.apply(A, step)


class _Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        a, gain = _fwd(A, step)
        ctx.save_for_backward(A, step, a, gain)
        return a, gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, da: Tensor, dgain: Tensor) -> tuple[Tensor, Tensor]:
        return _bwd(da, dgain, *ctx.saved_tensors)


def _fwd_impl(A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    A = _complex(A)
    z = step * A
    a = z.exp()
    near = step * _polynomial(_SERIES, z * z / 4) * (z / 2).exp()
    return torch.view_as_real(a), torch.view_as_real(torch.where(_is_near(z), near, (a - 1) / A))


def _bwd_impl(
    da: Tensor, dgain: Tensor, A: Tensor, step: Tensor, a: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """conj is the physical one: compiled graphs don't heed the mark that conj() leaves."""
    da, dgain, A, a, gain = (_complex(x) for x in (da, dgain, A, a, gain))
    z = step * A
    square = z * z / 4
    near = (_polynomial(_SERIES, square) + z * _polynomial(_SLOPE, square)) * (z / 2).exp() / 2
    slope = torch.where(_is_near(z), step * step * near, (step * a - gain) / A)
    dA = (step * a).conj_physical() * da + slope.conj_physical() * dgain
    dstep = ((A * da.conj_physical() + dgain.conj_physical()) * a).real
    return torch.view_as_real(dA), dstep.clone()


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.contiguous())


def _is_near(z: Tensor) -> Tensor:
    return z.abs() < _NEAR


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = coefficients[-1] * x + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        total = total * x + coefficient
    return total


_fwd = define_op(
    "ssm_hold_fwd(Tensor A, Tensor step) -> (Tensor a, Tensor gain)",
    _fwd_impl,
    fake=lambda A, step: (A.new_empty(A.shape), A.new_empty(A.shape)),
)
_bwd = define_op(
    "ssm_hold_bwd(Tensor da, Tensor dgain, Tensor A, Tensor step, Tensor a, Tensor gain)"
    " -> (Tensor dA, Tensor dstep)",
    _bwd_impl,
    fake=lambda da, dgain, A, step, a, gain: (A.new_empty(A.shape), A.new_empty(step.shape)),
)
