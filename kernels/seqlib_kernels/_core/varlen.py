# SPDX-License-Identifier: Apache-2.0
"""Packed sequences: `cu_seqlens` [N+1] marks where each of N sequences starts and the last ends."""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# The version of each boundary tensor whose values were found valid, and for which length: one
# look per batch, not per layer, and a tensor changed in place is looked at again.
_valid: Any = WeakTensorKeyDictionary()


def check_cu_seqlens(cu_seqlens: Tensor, batch: int, x: Tensor) -> int:
    """Hold `cu_seqlens` to what can be known without its values; returns the number N.

    Args:
        cu_seqlens: [N+1] int32 or int64, on the device of `x`.
        batch: the batch size of the call, which must be 1.
        x: any input of the call, for its device.

    Raises:
        TypeError: not a tensor, or not int32/int64.
        ValueError: a batch size other than 1, another rank or device, or no boundary at all.
    """
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a tensor, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(
            f"cu_seqlens must have shape (N+1,) with N >= 1, got {tuple(cu_seqlens.shape)}"
        )
    if cu_seqlens.device != x.device:
        raise ValueError(
            f"cu_seqlens must be on the device of the inputs, {x.device}, got {cu_seqlens.device}"
        )
    if batch != 1:
        raise ValueError(f"cu_seqlens needs a batch size of 1 (packed tokens), got B={batch}")
    return cu_seqlens.shape[0] - 1


def check_boundaries(cu_seqlens: Tensor | None, length: int) -> None:
    """Hold the values of `cu_seqlens` to: first 0, never decreasing, last `length`.

    Operators call this before they touch memory. On a GPU it waits for the device once per
    boundary tensor; while a CUDA graph is captured nothing can be read and nothing is checked.

    Raises:
        ValueError: the rule and the values that break it.
    """
    if cu_seqlens is None:
        return
    if cu_seqlens.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    seen = (cu_seqlens._version, length)
    if _valid.get(cu_seqlens) == seen:
        return
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise ValueError(f"cu_seqlens must start at 0, got {bounds[0]}")
    for i, (left, right) in enumerate(itertools.pairwise(bounds)):
        if right < left:
            raise ValueError(f"cu_seqlens must not decrease, got {left} then {right} at {i + 1}")
    if bounds[-1] != length:
        raise ValueError(f"cu_seqlens must end at T={length}, got {bounds[-1]}")
    _valid[cu_seqlens] = seen
