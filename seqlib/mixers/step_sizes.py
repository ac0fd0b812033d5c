# SPDX-License-Identifier: Apache-2.0
"""Step sizes of recurrences with a learned time step."""

import math

import torch
from torch import Tensor

SHORTEST, LONGEST = 1e-3, 1e-1


def fresh_dt_bias(size: int) -> Tensor:
    """[size] biases whose softplus, a step size, is log-uniform between the two bounds."""
    dt = torch.empty(size).uniform_(math.log(SHORTEST), math.log(LONGEST)).exp()
    return dt + torch.log(-torch.expm1(-dt))
