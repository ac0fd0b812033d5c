# SPDX-License-Identifier: Apache-2.0
"""Where each token stands in a packed row, or in one without padding."""

import torch
from torch import Tensor


def sequence_and_position(
    cu_seqlens: Tensor, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The sequence each of `length` packed tokens belongs to, and its position in there.

    Args:
        cu_seqlens: [N+1] boundaries of the sequences, on any device; empty ones are allowed.

    Returns:
        sequence, position: [length] int64 each, on `device`.
    """
    bounds = cu_seqlens.to(device, torch.long, non_blocking=True)
    t = torch.arange(length, device=device)
    sequence = torch.searchsorted(bounds, t, right=True) - 1
    return sequence, t - bounds[sequence]


def real_first(mask: Tensor) -> Tensor:
    """The place of each token when the real ones move to the front, in order: [B, T]."""
    real = mask.long()
    return torch.where(
        mask, real.cumsum(1) - 1, real.sum(1, keepdim=True) + (1 - real).cumsum(1) - 1
    )
