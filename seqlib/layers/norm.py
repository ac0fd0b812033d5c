# SPDX-License-Identifier: Apache-2.0
"""Root-mean-square normalisation, plain and gated."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, times `silu(gate)` if one is given.

    Computed in float32 at least and returned in the dtype of `x`.

    Source: arXiv 1910.07467; the gated form as in arXiv 2412.06464 (norm first, then the gate).
    """

    no_weight_decay: ClassVar = ("weight",)

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Args: x, gate: [..., dim]. Returns [..., dim]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        y = F.rms_norm(x.to(wide), self.weight.shape, self.weight.to(wide), self.eps)
        if gate is not None:
            y = y * F.silu(gate.to(wide))
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
