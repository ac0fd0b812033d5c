# SPDX-License-Identifier: Apache-2.0
"""The definition of normalisation over sequences: one after the other, by autograd."""

from itertools import pairwise

import torch
from torch import Tensor

from ..._core.dtypes import state_dtype


def sequence_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    per_channel: bool = False,
    eps: float,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """The arguments and results of `op.sequence_norm`, sequence by sequence."""
    dtype = state_dtype(x.dtype)
    wide, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    bounds = [0, x.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    over = (1,) if per_channel else (1, 2)
    outputs = [wide[:, :0]]
    for start, stop in pairwise(bounds):
        if stop > start:
            rows = wide[:, start:stop]
            centred = rows - rows.mean(over, keepdim=True)
            variance = centred.square().mean(over, keepdim=True)
            outputs.append(weight * centred / (variance + eps).sqrt() + bias)
    return torch.cat(outputs, 1).to(x.dtype), None
