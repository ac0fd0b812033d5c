# SPDX-License-Identifier: Apache-2.0
"""From sums of every sequence and channel to statistics, for both backends."""

import torch
from torch import Tensor


def lengths_of(cu_seqlens: Tensor | None, x: Tensor, like: Tensor) -> Tensor:
    """The number of steps of every sequence of x, at least 1: [N,1] in the dtype of `like`."""
    if cu_seqlens is None:
        return torch.full((x.shape[0], 1), max(x.shape[1], 1), dtype=like.dtype, device=x.device)
    return cu_seqlens.diff().clamp_min(1).to(like.dtype)[:, None]


def finish(
    mean: Tensor, rstd: Tensor, m2: Tensor, lengths: Tensor, per_channel: bool, eps: float
) -> None:
    """Turn the mean and sum of squared distances of every channel [N,C] into statistics.

    Unless `per_channel`, channels are merged: their distances from the common mean add to the
    sums.
    """
    if not per_channel:
        centre = mean.mean(1, keepdim=True)
        m2 = m2.mean(1, keepdim=True) + lengths * (mean - centre).square().mean(1, keepdim=True)
        mean.copy_(centre.expand_as(mean))
    rstd.copy_((m2 / lengths + eps).rsqrt().expand_as(rstd))


def spread(sums: Tensor, weight: Tensor, lengths: Tensor, per_channel: bool) -> tuple[Tensor, ...]:
    """What dx = scale (inner dy - first - xh second) is made of, xh the normalised x.

    Args:
        sums: [2, N, C] sums of dy and of dy xh over time.
        weight: [C].
        lengths: [N, 1].
        per_channel: as in the op.

    Returns:
        outer, inner: [C] factors whose product is the weight; scale is outer / sqrt(var + eps). A
            channel of its own has the weight outside, where one step leaves no rounding error.
        first, second: [N, C] means of inner dy and of inner dy xh.
    """
    one = torch.ones_like(weight)
    if per_channel:
        return weight, one, *(sums / lengths)
    means = (weight * sums / lengths).mean(2, keepdim=True).expand_as(sums).contiguous()
    return one, weight, *means
