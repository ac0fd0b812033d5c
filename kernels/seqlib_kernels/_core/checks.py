# SPDX-License-Identifier: Apache-2.0
"""Argument checks. Every message names the argument, the rule and the value received."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .dtypes import COMPLEX, REAL


def check_shape(name: str, x: Tensor, dims: str, sizes: dict[str, int]) -> None:
    """Hold `x` to the shape `dims`, a string such as "B T H K"; new letters enter `sizes`.

    Raises:
        TypeError: `x` is not a tensor.
        ValueError: another rank, or a size that differs from what `sizes` holds.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    letters = dims.split()
    wanted = f"({', '.join(letters)})"
    if x.ndim != len(letters):
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(x.shape)}")
    for letter, size in zip(letters, x.shape, strict=True):
        known = sizes.setdefault(letter, size)
        if known != size:
            raise ValueError(
                f"{name} must have shape {wanted} with {letter}={known}, fixed by an earlier "
                f"argument, got {tuple(x.shape)}"
            )


def check_same(
    names: Sequence[str], tensors: Sequence[Tensor | None], *, complex_allowed: bool = False
) -> None:
    """Hold all tensors that are given to one device and one supported dtype.

    Raises:
        TypeError: a dtype that is not supported.
        ValueError: dtypes or devices that differ.
    """
    given = [(n, x) for n, x in zip(names, tensors, strict=True) if x is not None]
    first_name, first = given[0]
    allowed = REAL + COMPLEX if complex_allowed else REAL
    if first.dtype not in allowed:
        words = ", ".join(str(d).removeprefix("torch.") for d in allowed)
        raise TypeError(f"{first_name} must have one of the dtypes {words}, got {first.dtype}")
    for name, x in given[1:]:
        if x.dtype != first.dtype:
            raise ValueError(
                f"{name} must have the dtype of {first_name}, {first.dtype}, got {x.dtype}"
            )
        check_device(name, x, first_name, first)


def check_device(name: str, x: Tensor, first_name: str, first: Tensor) -> None:
    """Hold `x` to the device of `first`."""
    if x.device != first.device:
        raise ValueError(
            f"{name} must be on the device of {first_name}, {first.device}, got {x.device}"
        )


def check_state(
    name: str, x: Tensor, dims: str, sizes: dict[str, int], dtype: torch.dtype, like: Tensor
) -> None:
    """Hold a given state to its shape, to the device of `like` and to the state's `dtype`."""
    check_shape(name, x, dims, sizes)
    if x.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, in which states are kept, got {x.dtype}")
    check_device(name, x, "the inputs", like)


def check_parameter(
    name: str, x: Tensor | None, dims: str, sizes: dict[str, int], first_name: str, first: Tensor
) -> None:
    """Hold `x`, if given, to its shape, to the device of `first`, and to its dtype or float32."""
    if x is None:
        return
    check_shape(name, x, dims, sizes)
    if x.dtype not in (first.dtype, torch.float32):
        raise TypeError(
            f"{name} must have dtype {first.dtype} as {first_name} or float32, got {x.dtype}"
        )
    check_device(name, x, first_name, first)
