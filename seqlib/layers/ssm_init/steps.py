# SPDX-License-Identifier: Apache-2.0
"""First step sizes, and the parameters whose exp or softplus they are."""

import math

import torch
from torch import Tensor


def log_uniform(
    *shape: int, low: float = 1e-3, high: float = 1e-1, generator: torch.Generator | None = None
) -> Tensor:
    """Float64 values between two bounds, uniform in their logarithm.

    Raises:
        ValueError: unless 0 < low <= high, both finite.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"step sizes need 0 < low <= high, got low={low}, high={high}")
    u = torch.rand(shape, dtype=torch.float64, device="cpu", generator=generator)
    return (math.log(low) + u * math.log(high / low)).exp()


def inverse_exp(dt: Tensor) -> Tensor:
    """x with exp(x) = dt."""
    return dt.log()


def inverse_softplus(dt: Tensor) -> Tensor:
    """x with log(1 + exp(x)) = dt."""
    return dt + torch.log(-torch.expm1(-dt))
