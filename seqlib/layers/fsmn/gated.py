# SPDX-License-Identifier: Apache-2.0
"""The gated memory and the block around it."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..norm import LayerNorm
from .memory import DilatedMemory, PlainMemory
from .projection import ConvolvedProjection
from .state import check_state, inner, outer

_EPS = 1e-5


class GatedFsmn(nn.Module):
    """`to_v(x) * memory(to_u(x)) + x`: the gated convolutional unit.

    Args:
        channels: C.
        memory: "dilated" or "plain".
        order, depth: of the memory; the plain one has no depth.
        kernel_size, dropout: of the projections.
        causal: outputs depend on earlier frames only.

    State, of the causal form: {"to_u", "to_v", "memory.taps1", ...}, batch first.

    Source: arXiv 2312.11825.
    """

    def __init__(
        self,
        channels: int,
        *,
        memory: str = "dilated",
        order: int = 20,
        depth: int = 2,
        kernel_size: int = 17,
        dropout: float = 0.0,
        causal: bool = False,
    ):
        super().__init__()
        if memory not in ("dilated", "plain"):
            raise ValueError(f"memory must be 'dilated' or 'plain', got {memory!r}")
        self.causal = causal
        self.to_u, self.to_v = (
            ConvolvedProjection(
                channels,
                channels,
                norm="layer",
                kernel_size=kernel_size,
                causal=causal,
                dropout=dropout,
            )
            for _ in range(2)
        )
        if memory == "plain":
            self.memory = PlainMemory(channels, order=order, causal=causal)
        else:
            self.memory = DilatedMemory(channels, order=order, depth=depth, causal=causal)

    def forward(
        self,
        x: Tensor,
        *,
        state: dict[str, Tensor] | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Args: x: [B, T, C]; cu_seqlens: [N+1]. Returns y [B, T, C] and the state or None.

        Raises:
            ValueError: a state without `causal`.
        """
        check_state(self.causal, state, return_state)
        given = state or {}
        options = {"cu_seqlens": cu_seqlens, "return_state": return_state}
        u, after_u = self.to_u(x, state=given.get("to_u"), **options)
        v, after_v = self.to_v(x, state=given.get("to_v"), **options)
        remembered, after = self.memory(u, state=inner("memory", state), **options)
        y = torch.addcmul(x, v, remembered)
        if after is None:
            return y, None
        return y, {"to_u": after_u, "to_v": after_v, **outer("memory", after)}


class GatedFsmnBlock(nn.Module):
    """`x + expand(norm(gated(norm(prelu(reduce(x))))))`, a gated memory of its own width.

    Args:
        dim: D, of inputs and outputs.
        inner_size: I, the width of the gated memory; the other options are its own.

    State: as `GatedFsmn`.

    Source: arXiv 2312.11825.
    """

    no_weight_decay: ClassVar = ("slope",)

    def __init__(self, dim: int, inner_size: int, *, causal: bool = False, **options):
        super().__init__()
        self.reduce = nn.Linear(dim, inner_size)
        self.slope = nn.Parameter(torch.full((1,), 0.25))
        self.norm_in = LayerNorm(inner_size, _EPS)
        self.gated = GatedFsmn(inner_size, causal=causal, **options)
        self.norm_out = LayerNorm(inner_size, _EPS)
        self.expand = nn.Linear(inner_size, dim)

    def initial_values(self) -> dict[str, Tensor]:
        """The slope of torch's PReLU."""
        return {"slope": torch.full((1,), 0.25)}

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
            ValueError: a state without `causal`.
        """
        y, after = self.branch(x, state=state, cu_seqlens=cu_seqlens, return_state=return_state)
        return x + y, after

    def branch(
        self,
        x: Tensor,
        *,
        state: dict[str, Tensor] | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """What is added to x: `forward` for those with a residual of their own."""
        h = self.reduce(x)
        h = self.norm_in(F.prelu(h, self.slope.to(h.dtype)))
        h, after = self.gated(h, state=state, cu_seqlens=cu_seqlens, return_state=return_state)
        return self.expand(self.norm_out(h)), after
