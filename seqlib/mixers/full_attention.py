# SPDX-License-Identifier: Apache-2.0
"""Softmax attention over everything before, for hybrids and as the baseline."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.norm import RMSNorm
from ..layers.packed import sequence_and_position
from ..layers.rotary import rotate
from .base import Mixer, check_call
from .checks import check_positive


class FullAttention(Mixer):
    """Causal attention with rotary positions and keys shared by groups of heads.

    Positions count real tokens only, so padding on either side moves nothing.

    Args:
        hidden_size: D.
        num_heads: query heads; one per 128 channels by default.
        num_kv_heads: heads of keys and values, a divisor of `num_heads` and by default as many.
        head_dim: K, even; by default D / num_heads.
        qk_norm: RMSNorm of each query and key before the rotation.
        rope_theta: the base of the rotation.
        norm_eps: of those norms.

    State: `k`, `v` [B, S, num_kv_heads, K] of the S tokens so far and, once a mask was given,
    `real` [B, S]: it grows by one row per token.
    """

    layer_type: ClassVar[str] = "full_attention"

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int | None = None,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qk_norm: bool = False,
        rope_theta: float = 10000.0,
        norm_eps: float = 1e-6,
    ):
        super().__init__(hidden_size)
        check_positive(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        check_positive(rope_theta=rope_theta, norm_eps=norm_eps)
        self.num_heads = num_heads or max(1, hidden_size // 128)
        self.num_kv_heads = num_kv_heads or self.num_heads
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads={self.num_heads}, got {self.num_kv_heads}"
            )
        if head_dim is None and hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads must divide hidden_size={hidden_size} unless head_dim is given, got "
                f"{self.num_heads}"
            )
        self.head_dim = head_dim or hidden_size // self.num_heads
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        self.rope_theta = rope_theta
        kv_dim = self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(hidden_size, self.num_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, kv_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, kv_dim, bias=False)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, norm_eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, norm_eps) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        *,
        state: dict[str, Tensor] | None = None,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        check_call(state, mask, cu_seqlens, return_state)
        B, T, _ = x.shape
        past = 0 if state is None else state["k"].shape[1]
        real = _real_tokens(state, mask, B, past, T, x.device)
        sequence = None
        if cu_seqlens is not None:
            sequence, position = sequence_and_position(cu_seqlens, T, x.device)
            positions = position[None]
        elif real is not None:
            positions = (real.long().cumsum(1)[:, past:] - 1).clamp_min(0)
        else:
            positions = torch.arange(past, past + T, device=x.device)[None]

        q = self.q_norm(self.q_proj(x).view(B, T, self.num_heads, self.head_dim))
        k = self.k_norm(self.k_proj(x).view(B, T, self.num_kv_heads, self.head_dim))
        v = self.v_proj(x).view(B, T, self.num_kv_heads, self.head_dim)
        q, k = rotate(q, positions, self.rope_theta), rotate(k, positions, self.rope_theta)
        if state is not None:
            k = torch.cat((state["k"].to(k.dtype), k), dim=1)
            v = torch.cat((state["v"].to(v.dtype), v), dim=1)
        visible = _visible(sequence, real, past, T, x.device)
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=visible,
            is_causal=visible is None and past == 0 and T > 1,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        y = self.o_proj(o.transpose(1, 2).flatten(2))
        if not return_state:
            return y, None
        new_state = {"k": k, "v": v}
        if real is not None:
            new_state["real"] = real
        return y, new_state


def _real_tokens(
    state: dict[str, Tensor] | None,
    mask: Tensor | None,
    B: int,
    past: int,
    T: int,
    device: torch.device,
) -> Tensor | None:
    """Which of all tokens so far are real: [B, past + T]; None when no padding was ever seen."""
    before = None if state is None else state.get("real")
    if before is None and mask is None:
        return None
    if before is None:
        before = torch.ones(B, past, dtype=torch.bool, device=device)
    if mask is None:
        mask = torch.ones(B, T, dtype=torch.bool, device=device)
    return torch.cat((before, mask), dim=1)


def _visible(
    sequence: Tensor | None, real: Tensor | None, past: int, T: int, device: torch.device
) -> Tensor | None:
    """Which key each query sees, broadcastable to [B, H, T, past + T]; None: all or causal."""
    if sequence is None and real is None and (T == 1 or past == 0):
        return None
    query = torch.arange(past, past + T, device=device)[:, None]
    key = torch.arange(past + T, device=device)
    visible = key <= query  # [T, past + T]
    if sequence is not None:
        visible = visible & (sequence[:, None] == sequence)
    if real is not None:  # a padded query sees itself, so that its softmax is defined
        visible = (visible & real[:, None]) | (key == query)
        return visible[:, None]
    return visible
