# SPDX-License-Identifier: Apache-2.0
"""Padding anywhere, for recurrences whose step can't be switched off for single tokens.

The real tokens of all rows become packed sequences, or stand at the front of their rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers.packed import sequence_and_position

# An op of packed sequences, called with initial_state, return_final_state and cu_seqlens.
Op = Callable[..., tuple[Tensor, Tensor | None]]

# The packing of each mask and the version it was made of: the layers of a model share a mask, and
# boundaries that are the same tensor are looked at once.
_known: Any = WeakTensorKeyDictionary()


class Packing(NamedTuple):
    """order, place: [B T] from packed to flat positions and back; bounds: [B + 2] of sequences.

    Padding is a sequence of its own behind the others, so that no size depends on values.
    """

    order: Tensor
    place: Tensor
    bounds: Tensor


def run_masked(
    op: Op,
    u: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Run `op` from `state` on as if the tokens outside the mask were not there.

    Args:
        u: [B, T, D]; mask: [B, T] bool; state: [B, ...] or None.

    Returns:
        y [B, T, ...], which means nothing outside the mask, and the last state [B, ...] or None.
    """
    if mask is None:
        return op(u, initial_state=state, return_final_state=return_state, cu_seqlens=cu_seqlens)
    order, place, bounds = _packing(mask)
    if state is not None:
        state = torch.cat((state, state.new_zeros(1, *state.shape[1:])))
    y, last = op(
        u.flatten(0, 1).index_select(0, order)[None],
        initial_state=state,
        return_final_state=return_state,
        cu_seqlens=bounds,
    )
    y = y[0].index_select(0, place).view(*mask.shape, *y.shape[2:])
    return y, None if last is None else last[:-1].clone()


def _packing(mask: Tensor) -> Packing:
    # tensors of inference mode count no versions and can't be kept for a backward pass
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or mask.is_inference():
        return _pack(mask)
    seen = _known.get(mask)
    if seen is None or seen[0] != mask._version:
        seen = _known[mask] = mask._version, _pack(mask)
    return seen[1]


def _pack(mask: Tensor) -> Packing:
    B = mask.shape[0]
    rows = torch.arange(B, device=mask.device)[:, None]
    order = torch.where(mask, rows, B).flatten().argsort(stable=True)
    lengths = torch.cat((mask.sum(1), (~mask).sum()[None]))
    return Packing(order, order.argsort(), F.pad(lengths.cumsum(0), (1, 0)))


def to_front(mask: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T] indices along T that bring each row's real tokens to its front, and those back."""
    order = (~mask).long().argsort(dim=1, stable=True)
    return order, order.argsort(dim=1)


def along_time(x: Tensor, index: Tensor) -> Tensor:
    """x [B, T, ...] at [B, T] positions of each row."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[rows, index]


def to_rows(u: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Packed tokens [1, T, D] as one row for each sequence, zeros behind, and where tokens went."""
    lengths = cu_seqlens[1:] - cu_seqlens[:-1]
    where = sequence_and_position(cu_seqlens, u.shape[1], u.device)
    rows = u.new_zeros(lengths.shape[0], int(lengths.max()), u.shape[2])
    return rows.index_put(where, u[0]), where
