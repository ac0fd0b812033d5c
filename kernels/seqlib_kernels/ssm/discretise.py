# SPDX-License-Identifier: Apache-2.0
"""From rates and step sizes to one step of the recurrence: one map for definitions and ops."""

from typing import Literal, get_args

import torch
from torch import Tensor

from .hold import hold
from .pairs import add, inverse

Discretization = Literal["zoh", "bilinear"]
DISCRETIZATIONS: tuple[str, ...] = get_args(Discretization)


def discretise(A: Tensor, step: Tensor, discretization: str) -> tuple[Tensor, Tensor]:
    """The multiplier and the gain of x_t = a x_{t-1} + gain B u_t for x' = A x + B u.

    zoh holds the input for a step: a = e^{step A}, gain = (e^{step A} - 1) / A. bilinear is the
    trapezoidal rule: a = (1 + step A / 2) / (1 - step A / 2), gain = step / (1 - step A / 2).
    Both are exact and differentiable at A = 0 and at step = 0, where a = 1 and gain = step.

    Args:
        A: [..., 2] pairs, the eigenvalues.
        step: [...] step sizes, broadcast with A without its last axis.

    Returns:
        a and gain, pairs [..., 2] of the dtype of the arguments: float64 where it matters.

    Source: Gu et al., arXiv 2206.11893, section 2; arXiv 2111.00396, equation 3.
    """
    if discretization == "zoh":
        shape = torch.broadcast_shapes(A.shape[:-1], step.shape)
        return hold(A.expand(*shape, 2), step.expand(shape))
    step = step[..., None]
    inverted = inverse(add(-step * A / 2, 1))
    return add(2 * inverted, -1), step * inverted


def check_discretization(discretization: str) -> None:
    """Hold the argument to the known names."""
    if discretization not in DISCRETIZATIONS:
        names = ", ".join(repr(name) for name in DISCRETIZATIONS)
        raise ValueError(f"discretization must be one of {names}, got {discretization!r}")


def check_steps(dt: Tensor) -> None:
    """Hold step sizes to positive, finite values.

    Looks at CPU tensors in eager calls only: a GPU would have to be waited for, and a trace has
    no values.
    """
    if dt.device.type != "cpu" or torch.compiler.is_compiling() or not dt.numel():
        return
    bad = ~((dt > 0) & dt.isfinite())
    if bad.any():
        raise ValueError(f"dt must be positive and finite, got {dt.detach()[bad][0].item()}")


def check_rate(rate: float) -> None:
    """Hold a factor of all step sizes to a positive, finite number."""
    if not isinstance(rate, (int, float)):
        raise TypeError(f"rate must be a number, got {type(rate).__name__}")
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate must be positive and finite, got {rate}")
