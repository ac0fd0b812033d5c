# SPDX-License-Identifier: Apache-2.0
"""The definition of the dense dilated memory: convolution, norm and PReLU, layer by layer."""

import torch
from torch import Tensor

from ..._core.dtypes import state_dtype
from ..memory import reference as memory
from ..norm import reference as norm


def dense_fsmn_memory(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    slope: Tensor,
    *,
    eps: float = 1e-5,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """The arguments and results of `op.dense_fsmn_memory`, differentiable by autograd."""
    dtype = state_dtype(x.dtype)
    layers = output = x.to(dtype)
    weight, gain, shift, slope = (p.to(dtype) for p in (weight, gain, shift, slope))
    for i in range(gain.shape[0]):
        taps = weight[:, first_input(i) : first_input(i + 1)]
        read, _ = memory.fsmn_memory(
            layers, taps, dilation=2**i, residual=False, cu_seqlens=cu_seqlens
        )
        z, _ = norm.sequence_norm(
            read, gain[i], shift[i], per_channel=True, eps=eps, cu_seqlens=cu_seqlens
        )
        output = torch.where(z > 0, z, slope[i] * z)
        layers = torch.cat([output, layers], -1)
    return output.to(x.dtype), None


def first_input(i: int) -> int:
    """Where the taps of layer i, counted from 0 and i+1 for every channel, begin in the weight."""
    return i * (i + 1) // 2
