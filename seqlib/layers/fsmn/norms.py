# SPDX-License-Identifier: Apache-2.0
"""Norms by a factor per frame, and by statistics of whole sequences."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from seqlib_kernels import sequence_norm
from torch import Tensor, nn

# Root mean squares below count as this: fresh attention is so quiet that most frames do.
_QUIET = 1e-5


def root_mean_square(x: Tensor) -> Tensor:
    """x [B, T, D] to float32 at least [B, T]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, dtype=wide) * x.shape[-1] ** -0.5


class ScaleNorm(nn.Module):
    """`gain * x / max(rms(x), 1e-5)` with one gain for all channels.

    What it multiplies a frame with commutes with whatever is linear in the frame, so it is handed
    out as such. Source: arXiv 1910.05895, clamped as in MossFormer2.
    """

    no_weight_decay: ClassVar = ("gain",)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def initial_values(self) -> dict[str, Tensor]:
        """A gain of one."""
        return {"gain": torch.ones(1)}

    def forward(self, rms: Tensor) -> Tensor:
        """Args: rms: [B, T]. Returns the factor of every frame [B, T]."""
        return self.gain.to(rms.dtype) / rms.clamp(min=_QUIET)


class SequenceNorm(nn.Module):
    """`(x - mean) / sqrt(var + eps) * weight + bias` with statistics of a whole sequence.

    Over all its channels and frames; causal: over the channels of a single frame. Computed in
    float32 at least and returned in the dtype of `x`.

    Args:
        channels: size of the last axis.
        eps: added to the biased variance.

    Source: "global layer norm", arXiv 1809.07454.
    """

    no_weight_decay: ClassVar = ("weight", "bias")

    def __init__(self, channels: int, eps: float, *, causal: bool = False):
        super().__init__()
        self.eps, self.causal = eps, causal
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def initial_values(self) -> dict[str, Tensor]:
        """The identity."""
        channels = self.weight.shape[0]
        return {"weight": torch.ones(channels), "bias": torch.zeros(channels)}

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """Args: x: [B, T, C]; cu_seqlens: [N+1] boundaries in B = 1. Returns [B, T, C]."""
        if self.causal:
            return frame_norm(x, self.weight, self.bias, self.eps)
        return sequence_norm(x, self.weight, self.bias, eps=self.eps, cu_seqlens=cu_seqlens)[0]

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, causal={self.causal}"


def frame_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm of the last axis in float32 at least, in the dtype of `x`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps)
    return y.to(x.dtype)
