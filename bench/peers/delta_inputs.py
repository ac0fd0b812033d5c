# SPDX-License-Identifier: Apache-2.0
"""What the delta-rule peers in torch share: plain float32 heads and decays."""

import torch
from torch import Tensor


def heads(x: Tensor, count: int, normalize: bool) -> Tensor:
    """[B, T, H, K] as [B, T, count, K], each row of unit length if asked."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if normalize:
        x = x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
    return x.repeat_interleave(count // x.shape[2], 2)


def decay_of(g: Tensor | None, alpha: Tensor | None) -> Tensor | None:
    """The decay [B, T, HV] from its logarithm or from itself."""
    return alpha if g is None else g.exp()
