# SPDX-License-Identifier: Apache-2.0
"""Step sizes and eigenvalues of state-space models: the one map of definitions and steps."""

import torch
from torch import Tensor
from torch.nn import functional as F


def step_sizes(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, dtype: torch.dtype) -> Tensor:
    """Delta in `dtype`: dt + dt_bias, put through softplus if asked for."""
    delta = dt.to(dtype).contiguous()  # sums of its gradient depend on strides
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    return _softplus(delta) if dt_softplus else delta


def eigenvalues(exponents: Tensor, negative: bool) -> Tensor:
    """exp(Delta A), or 2 exp(Delta A) - 1."""
    e = exponents.exp()
    return 2 * e - 1 if negative else e


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), and x beyond 20."""
    if x.device.type != "cpu":
        return F.softplus(x)
    # torch's own rounds an element by where it lies in memory: no two cuts of a batch would agree
    linear = x > 20  # false for NaN, whose gradient is NaN too
    return torch.where(linear, x, x.masked_fill(linear, 20).exp().log1p())
