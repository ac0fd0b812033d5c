# SPDX-License-Identifier: Apache-2.0
"""The gated MLP between mixers."""

import torch.nn.functional as F
from torch import Tensor, nn


def swiglu_width(hidden_size: int) -> int:
    """The usual inner width: 8/3 of `hidden_size`, rounded up to a multiple of 256."""
    return 256 * -(-(8 * hidden_size // 3) // 256)


class SwiGLU(nn.Module):
    """`down_proj(silu(gate_proj(x)) * up_proj(x))`, no biases. Source: arXiv 2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: [..., hidden_size]. Returns the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
