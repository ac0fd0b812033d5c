# SPDX-License-Identifier: Apache-2.0
"""Checks of a state-space layer's parameters."""

import torch
from torch import Tensor

from .._core.checks import check_device, check_shape


def check_parameter(name: str, x: Tensor, dims: str, sizes: dict[str, int], u: Tensor) -> None:
    """Hold `x` to its shape, to the device of `u`, and to its dtype, float32 or float64."""
    check_shape(name, x, dims, sizes)
    if x.dtype not in (u.dtype, torch.float32, torch.float64):
        raise TypeError(f"{name} must have dtype {u.dtype} as u, float32 or float64, got {x.dtype}")
    check_device(name, x, "u", u)


def check_pairs(name: str, x: Tensor, dims: str, sizes: dict[str, int], u: Tensor) -> None:
    """Hold pairs `x` to the shape `dims` and a last axis of 2, and to dtype and device as above."""
    sizes["2"] = 2
    check_parameter(name, x, f"{dims} 2", sizes, u)
