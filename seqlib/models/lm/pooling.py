# SPDX-License-Identifier: Apache-2.0
"""From the tokens of rows to one vector a row, and from two of those to an answer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PairScore(nn.Module):
    """An answer about two vectors a, b: `out(gelu(inner([a, b, a - b, a * b])))`.

    Source: the head of the retrieval task in arXiv 2011.04006, as S4 and S5 have it.
    """

    def __init__(self, hidden_size: int, num_labels: int):
        super().__init__()
        self.inner = nn.Linear(4 * hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, num_labels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Args: a, b: [B, D]. Returns [B, num_labels]."""
        return self.out(F.gelu(self.inner(torch.cat((a, b, a - b, a * b), -1))))


def pool(hidden_states: Tensor, attention_mask: Tensor | None, how: str) -> Tensor:
    """One vector per row, [B, D].

    Args:
        hidden_states: [B, T, D].
        attention_mask: [B, at least T], of which the last T columns are 0 at padding, or None.
        how: "last", the last real token; or "mean", of all real tokens, summed in float32 at
            least. A row of padding alone gives its first token, or zeros.
    """
    B, T, _ = hidden_states.shape
    mask = None if attention_mask is None else attention_mask[:, -T:].bool()
    if how == "mean":
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        if mask is None:
            return hidden_states.mean(1, dtype=wide).to(hidden_states.dtype)
        real = mask[..., None]
        total = hidden_states.where(real, 0).sum(1, dtype=wide)
        return (total / real.sum(1).clamp_min(1)).to(hidden_states.dtype)
    t = torch.arange(T, device=hidden_states.device)
    last = t.new_full((B,), T - 1) if mask is None else (mask * t).argmax(-1)
    return hidden_states[torch.arange(B, device=t.device), last]


def stack_pairs(
    first: Tensor, second: Tensor, first_mask: Tensor | None, second_mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Rows of both sides as one batch [2B, T], first sides first, and its mask.

    Args:
        first, second: [B, T1, ...] and [B, T2, ...]; the shorter one is filled up with zeros
            behind its end, which the mask leaves out.
        first_mask, second_mask: [B, T1] and [B, T2], None where all is real.
    """
    T = max(first.shape[1], second.shape[1])
    mask = None
    if first_mask is not None or second_mask is not None or first.shape != second.shape:
        masks = [
            rows.new_ones(rows.shape[:2], dtype=torch.bool) if given is None else given.bool()
            for rows, given in ((first, first_mask), (second, second_mask))
        ]
        mask = torch.cat([F.pad(given, (0, T - given.shape[1])) for given in masks])
    tails = (0, 0) * (first.ndim - 2)
    sides = [F.pad(rows, (*tails, 0, T - rows.shape[1])) for rows in (first, second)]
    return torch.cat(sides), mask
