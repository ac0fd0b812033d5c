# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding."""

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn each pair (x[i], x[i + K/2]) by `positions * theta**(-2i/K)`.

    The angles are computed in float32 from integer positions, so nothing is stored and nothing
    has to be restored with a checkpoint.

    Args:
        x: [B, T, H, K] with an even K.
        positions: [B, T] or [1, T] integers.
        theta: the base; wavelengths run from 2 pi to 2 pi theta.

    Returns:
        [B, T, H, K] in the dtype of `x`. Source: arXiv 2104.09864.
    """
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = (positions[..., None].float() * rates)[:, :, None]  # [B,T,1,K/2]
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angles.cos().to(wide), angles.sin().to(wide)
    a, b = x.to(wide).chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
