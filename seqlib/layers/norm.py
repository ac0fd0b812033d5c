# SPDX-License-Identifier: Apache-2.0
"""Norms of single tokens: root mean square, plain and gated, and mean and variance."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, times `silu(gate)` if one is given.

    Computed in float32 at least and returned in the dtype of `x`.

    Args:
        dim: size of the last axis.
        eps: added to the mean square.
        gate_first: norm `x * silu(gate)` instead.
        groups: take the mean square over so many equal parts of the last axis, each for itself.

    Source: arXiv 1910.07467; the gate after the norm as in arXiv 2412.06464, before it and in
    groups as in arXiv 2405.21060.
    """

    no_weight_decay: ClassVar = ("weight",)

    def __init__(self, dim: int, eps: float = 1e-6, *, gate_first: bool = False, groups: int = 1):
        super().__init__()
        if groups < 1 or dim % groups:
            raise ValueError(f"groups must divide dim={dim}, got {groups}")
        self.eps, self.gate_first, self.groups = eps, gate_first, groups
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Args: x, gate: [..., dim]. Returns [..., dim]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, factor = self.weight.to(wide), None if gate is None else F.silu(gate.to(wide))
        y = x.to(wide)
        if factor is not None and self.gate_first:
            y = y * factor
        if self.groups == 1:
            y = F.rms_norm(y, weight.shape, weight, self.eps)
        else:
            parts = y.unflatten(-1, (self.groups, -1))
            y = F.rms_norm(parts, parts.shape[-1:], None, self.eps).flatten(-2) * weight
        if factor is not None and not self.gate_first:
            y = y * factor
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        shown = f"{self.weight.shape[0]}, eps={self.eps}"
        return f"{shown}, gate_first={self.gate_first}, groups={self.groups}"


class LayerNorm(nn.LayerNorm):
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the last axis.

    Computed in float32 at least and returned in the dtype of `x`. Source: arXiv 1607.06450.
    """

    no_weight_decay: ClassVar = ("weight", "bias")

    def forward(self, input: Tensor) -> Tensor:
        """Args: input: [..., dim]. Returns the same shape."""
        wide = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        y = F.layer_norm(input.to(wide), weight.shape, weight, bias, self.eps)
        return y.to(input.dtype)
