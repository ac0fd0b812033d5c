# SPDX-License-Identifier: Apache-2.0
"""Dropout of whole channels over time."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.packed import sequence_and_position


class SequenceDropout(nn.Module):
    """Dropout that can draw once per sequence and channel, for all its tokens.

    Args:
        p: share of zeros, in [0, 1).
        tied: draw once per sequence.
    """

    def __init__(self, p: float, *, tied: bool):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}")
        self.p, self.tied = p, tied

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """x: [B, T, D]; cu_seqlens: [N+1] boundaries of sequences packed into B = 1."""
        if not self.training or not self.p:
            return x
        if not self.tied:
            return F.dropout(x, self.p)
        B, T, D = x.shape
        sequences = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
        kept = F.dropout(x.new_ones(sequences, 1, D), self.p)
        if cu_seqlens is not None:
            sequence, _ = sequence_and_position(cu_seqlens, T, x.device)
            kept = kept[sequence].transpose(0, 1)
        return x * kept

    def extra_repr(self) -> str:
        return f"p={self.p}, tied={self.tied}"
