# SPDX-License-Identifier: Apache-2.0
"""Packed sequences: `cu_seqlens` [N+1] marks where each of N sequences starts and the last ends.

On a GPU it may lie there, then its values are read back once, or on the CPU, then they are copied
there without waiting for the device.
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# The version of each boundary tensor whose values were found valid, and for which length: one
# look per batch, not per layer, and a tensor changed in place is looked at again.
_valid: Any = WeakTensorKeyDictionary()
# The version of each CPU boundary tensor that was copied, and its copies by device and stream:
# on another stream a copy might be read before it is there.
_copies: Any = WeakTensorKeyDictionary()


def check_cu_seqlens(cu_seqlens: Tensor, batch: int, x: Tensor) -> int:
    """Hold `cu_seqlens` to what can be known without its values; returns the number N.

    Args:
        cu_seqlens: [N+1] int32 or int64, on the device of `x` or on the CPU.
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
    if cu_seqlens.device not in (x.device, torch.device("cpu")):
        raise ValueError(
            f"cu_seqlens must be on the device of the inputs, {x.device}, or on the CPU, "
            f"got {cu_seqlens.device}"
        )
    if batch != 1:
        raise ValueError(f"cu_seqlens needs a batch size of 1 (packed tokens), got B={batch}")
    return cu_seqlens.shape[0] - 1


def check_boundaries(cu_seqlens: Tensor | None, length: int) -> None:
    """Hold the values of `cu_seqlens` to: first 0, never decreasing, last `length`.

    Operators call this before they touch memory. For boundaries on a GPU it waits for the device
    once per tensor; while a CUDA graph is captured these can't be read and are not checked.

    Raises:
        ValueError: the rule and the values that break it.
    """
    if cu_seqlens is None:
        return
    if cu_seqlens.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    version = _version(cu_seqlens)
    seen = (version, length)
    if version is not None and _valid.get(cu_seqlens) == seen:
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


def on_device(cu_seqlens: Tensor | None, x: Tensor) -> Tensor | None:
    """The boundaries where kernels that work on `x` can read them.

    Operators call this after `check_boundaries`, in both passes. CPU boundaries of GPU inputs are
    copied once per tensor, version, device and stream, and nothing waits for the copy.

    Raises:
        ValueError: CPU boundaries while a CUDA graph is captured, which would outlive the copy.
    """
    if cu_seqlens is None or cu_seqlens.device == x.device:
        return cu_seqlens
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            f"cu_seqlens must be on the device of the inputs, {x.device}, while a CUDA graph is "
            f"captured, got {cu_seqlens.device}"
        )
    version = _version(cu_seqlens)
    if version is None:
        return _copy(cu_seqlens, x.device)
    known, copies = _copies.get(cu_seqlens, (None, {}))
    if known != version:
        copies = {}
        _copies[cu_seqlens] = (version, copies)
    place = (x.device, torch.cuda.current_stream(x.device) if x.is_cuda else None)
    if place not in copies:
        copies[place] = _copy(cu_seqlens, x.device)
    return copies[place]


def bounds_of(cu_seqlens: Tensor | None, batch: int, T: int) -> np.ndarray:
    """Where sequences start and end among the B*T rows of a call on CPUs: int64 [Nseq+1]."""
    if cu_seqlens is None:
        return np.arange(batch + 1, dtype=np.int64) * T
    return cu_seqlens.numpy().astype(np.int64)


def _copy(cu_seqlens: Tensor, device: torch.device) -> Tensor:
    """A copy on `device`, through pinned memory that nobody else writes to meanwhile."""
    if device.type == "cuda":
        cu_seqlens = torch.empty_like(cu_seqlens, pin_memory=True).copy_(cu_seqlens)
    return cu_seqlens.to(device, non_blocking=True)


def _version(x: Tensor) -> int | None:
    """Counts changes in place; None for tensors of inference mode, whose changes nobody counts."""
    return None if x.is_inference() else x._version
