# SPDX-License-Identifier: Apache-2.0
"""The attention block: gated, single-headed, within groups of frames and linear beyond them."""

from dataclasses import fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from seqlib_kernels import (
    JointAttentionState,
    joint_attention,
    joint_attention_segment,
    joint_attention_step,
)
from torch import Tensor, nn

from ..packed import sequence_and_position
from .norms import root_mean_square
from .projection import ConvolvedProjection
from .state import check_state

_MEMORY = tuple(field.name for field in fields(JointAttentionState))


class JointAttentionBlock(nn.Module):
    """`x + to_out(joint_attention(to_hidden(s), to_qk(s)))`, s = x with half its channels delayed.

    Half of the channels, rounded up, come from the frame before. Everything is normed within the
    projections, by a scale norm.

    Args:
        dim: D, of inputs and outputs.
        group_size: G, frames that attend to each other.
        query_key_dim: S.
        expansion: the hidden projection has expansion * D channels, an even number.
        rotary_dim: channels of queries and keys that turn with the frame; at most S are.
        kernel_size, dropout: of the projections; dropout also of the attention in a group.
        causal: outputs depend on earlier frames only.
        normalize: what the causal linear part is divided by, "frames" or "group".

    State, of the causal form: {"shift": [B, 1, D/2], "hidden", "qk" and "out" of the projections,
    and the tensors of `JointAttentionState`}, batch first.

    Sources: arXiv 2302.11824 (MossFormer), 2202.10447 (FLASH).
    """

    no_weight_decay: ClassVar = ("gamma", "beta")

    def __init__(
        self,
        dim: int,
        *,
        group_size: int = 256,
        query_key_dim: int = 128,
        expansion: int = 4,
        rotary_dim: int = 32,
        kernel_size: int = 17,
        dropout: float = 0.0,
        causal: bool = False,
        normalize: str = "frames",
    ):
        super().__init__()
        self.group_size, self.causal, self.normalize = group_size, causal, normalize
        self.rotary_dim = min(rotary_dim, query_key_dim)
        self.dropout = dropout
        options = {"kernel_size": kernel_size, "causal": causal, "dropout": dropout}
        self.to_hidden = ConvolvedProjection(dim, expansion * dim, **options)
        self.to_qk = ConvolvedProjection(dim, query_key_dim, **options)
        self.to_out = ConvolvedProjection(expansion * dim // 2, dim, **options)
        self.gamma = nn.Parameter(torch.empty(4, query_key_dim))
        self.beta = nn.Parameter(torch.empty(4, query_key_dim))
        with torch.no_grad():
            for name, value in self.initial_values().items():
                getattr(self, name).copy_(value)

    def initial_values(self) -> dict[str, Tensor]:
        """Gains so small that a fresh block passes its input on, nearly; no offsets."""
        shape = self.gamma.shape
        return {"gamma": 0.02 * torch.randn(shape, device="cpu"), "beta": torch.zeros(shape)}

    def forward(
        self,
        x: Tensor,
        *,
        state: dict[str, Tensor] | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Args: x: [B, T, D]; cu_seqlens: [N+1]. Returns y [B, T, D] and the state or None.

        Raises:
            ValueError: a state without `causal`, or beside cu_seqlens.
        """
        check_state(self.causal, state, return_state)
        given = state or {}
        options = {"cu_seqlens": cu_seqlens, "return_state": return_state}
        shifted = self._shifted(x, given.get("shift"), cu_seqlens)
        rms = root_mean_square(shifted)
        # the small one first: the peak of memory is within the other
        qk, after_qk = self.to_qk(shifted, rms=rms, state=given.get("qk"), **options)
        z, after_z = self.to_hidden(shifted, rms=rms, state=given.get("hidden"), **options)
        del shifted, rms
        if state is None and not return_state:
            o, after = self._attend(z, qk, cu_seqlens), None
        else:
            o, after = self._go_on(z, qk, state)
        del z, qk
        y, after_y = self.to_out(o, state=given.get("out"), **options)
        y = x + y
        if not return_state or after is None:
            return y, None
        half = (x.shape[2] + 1) // 2
        own = {"shift": x[:, -1:, :half].clone(), "hidden": after_z, "qk": after_qk, "out": after_y}
        return y, own | after

    def _shifted(self, x: Tensor, before: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        half = (x.shape[2] + 1) // 2
        delayed = F.pad(x[:, :-1, :half], (0, 0, 1, 0))
        if before is not None:
            delayed = torch.cat((before.to(x.dtype), x[:, :-1, :half]), 1)
        elif cu_seqlens is not None:
            _, position = sequence_and_position(cu_seqlens, x.shape[1], x.device)
            delayed = delayed.where((position > 0)[:, None], 0)
        return torch.cat((delayed, x[..., half:]), -1)

    def _attend(self, z: Tensor, qk: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        keep, kept = None, 1.0
        if self.training and self.dropout > 0:
            kept = 1 - self.dropout
            shape = (*z.shape[:2], self.group_size)
            keep = torch.empty(shape, dtype=torch.bool, device=z.device).bernoulli_(kept)
        o, _ = joint_attention(
            z,
            qk,
            self.gamma,
            self.beta,
            frequencies(self.rotary_dim, z.device),
            group_size=self.group_size,
            causal=self.causal,
            normalize=self.normalize if self.causal else "frames",
            keep=keep,
            keep_scale=1 / kept,
            cu_seqlens=cu_seqlens,
        )
        return o

    def _go_on(
        self, z: Tensor, qk: Tensor, state: dict[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if state is None:
            E, S = z.shape[2] // 2, qk.shape[2]
            before = JointAttentionState.empty(z.shape[0], E, S, self.group_size, z)
        else:
            before = JointAttentionState(*(state[name] for name in _MEMORY))
        advance = joint_attention_step if z.shape[1] == 1 else joint_attention_segment
        o, after = advance(
            z,
            qk,
            self.gamma,
            self.beta,
            frequencies(self.rotary_dim, z.device),
            group_size=self.group_size,
            normalize=self.normalize,
            state=before,
        )
        return o, {name: getattr(after, name) for name in _MEMORY}


def frequencies(channels: int, device: torch.device) -> Tensor:
    """10000^(-2j / channels), j < channels / 2: float32, as networks were trained with them.

    They are made for every call: a buffer would follow the model to 16 bits, which can't tell
    late frames apart.
    """
    steps = torch.arange(0, channels, 2, dtype=torch.float32, device=device)
    return 1.0 / 10000 ** (steps / channels)
