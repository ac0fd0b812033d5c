# SPDX-License-Identifier: Apache-2.0
"""Checks of a state-space layer's parameters."""

import torch
from torch import Tensor

from .._core.checks import check_device, check_shape


def check_parameter(
    name: str, x: Tensor, dims: str, sizes: dict[str, int], like: Tensor, like_name: str = "u"
) -> None:
    """Hold `x` to its shape, to the device of `like`, and to its dtype, float32 or float64."""
    check_shape(name, x, dims, sizes)
    if x.dtype not in (like.dtype, torch.float32, torch.float64):
        raise TypeError(
            f"{name} must have dtype {like.dtype} as {like_name}, float32 or float64, got {x.dtype}"
        )
    check_device(name, x, like_name, like)


def check_pairs(
    name: str, x: Tensor, dims: str, sizes: dict[str, int], like: Tensor, like_name: str = "u"
) -> None:
    """Hold pairs `x` to the shape `dims` and a last axis of 2, and to dtype and device as above."""
    sizes["2"] = 2
    check_parameter(name, x, f"{dims} 2", sizes, like, like_name)


def check_diagonal(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    sizes: dict[str, int],
    both_directions: bool,
    like: Tensor,
    like_name: str = "u",
) -> None:
    """Hold A, B [S, M, 2], C [H, M, 2] or [2, H, M, 2] and dt [H] or [H, M] to one another."""
    check_pairs("A", A, "S M", sizes, like, like_name)
    check_pairs("B", B, "S M", sizes, like, like_name)
    check_pairs("C", C, "2 H M" if both_directions else "H M", sizes, like, like_name)
    per_mode = isinstance(dt, Tensor) and dt.ndim == 2
    check_parameter("dt", dt, "H M" if per_mode else "H", sizes, like, like_name)
    if sizes["S"] < 1 or sizes["H"] % sizes["S"] != 0:
        raise ValueError(
            f"A must have a number of copies S that divides H={sizes['H']}, the channels, "
            f"got S={sizes['S']}"
        )
