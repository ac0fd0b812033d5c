# SPDX-License-Identifier: Apache-2.0
"""FSMN: a gated memory by sparse taps that look back, the recurrence-free half of MossFormer2."""

import torch
from torch import Tensor

from ..layers.fsmn import GatedFsmnBlock
from ..layers.packed import real_first
from .base import Mixer, check_call
from .checks import check_positive


class Fsmn(Mixer):
    """`expand(norm(v * memory(u) + b))`, b = norm(prelu(reduce(x))); u and v projected from b.

    The projections convolve with short taps, the memory with long ones. All taps look back, and
    norms are over the channels of a token: an output depends on so many tokens before it as the
    taps reach, and on no more.

    Args:
        hidden_size: D.
        inner_size: width of all but the ends, half of D by default.
        fsmn_order: taps of each convolution of the memory.
        fsmn_depth: convolutions of the dilated memory, each with twice the dilation of the one
            before and a view of all before.
        memory: "dilated", or "plain": one convolution.
        conv_kernel_size: taps of the projections.
        dropout: of the projections.

    State: the last inputs of every convolution, in float32 at least.

    Sources: arXiv 2312.11825 (MossFormer2), 1803.05030 (Deep-FSMN).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        inner_size: int | None = None,
        fsmn_order: int = 20,
        fsmn_depth: int = 2,
        memory: str = "dilated",
        conv_kernel_size: int = 17,
        dropout: float = 0.0,
    ):
        super().__init__(hidden_size)
        check_positive(
            inner_size=inner_size,
            fsmn_order=fsmn_order,
            fsmn_depth=fsmn_depth,
            conv_kernel_size=conv_kernel_size,
        )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.block = GatedFsmnBlock(
            hidden_size,
            inner_size or max(1, hidden_size // 2),
            causal=True,
            memory=memory,
            order=fsmn_order,
            depth=fsmn_depth,
            kernel_size=conv_kernel_size,
            dropout=dropout,
        )

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
        if mask is not None and mask.numel() > 0:
            return self._masked(x, state, mask, return_state)
        return self.block.branch(x, state=state, cu_seqlens=cu_seqlens, return_state=return_state)

    def _masked(
        self, x: Tensor, state: dict[str, Tensor] | None, mask: Tensor, return_state: bool
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Every row as two packed sequences, its real tokens and its padding."""
        B, T, D = x.shape
        place_BTD = real_first(mask)[..., None].expand(B, T, D)
        rows = torch.zeros_like(x).scatter(1, place_BTD, x).reshape(1, B * T, D)
        starts = torch.arange(B, device=x.device) * T
        inner_bounds = torch.stack((starts, starts + mask.sum(1)), 1).flatten()
        bounds = torch.cat((inner_bounds, inner_bounds.new_full((1,), B * T)))
        if state is not None:
            state = {
                n: torch.stack((s, torch.zeros_like(s)), 1).flatten(0, 1) for n, s in state.items()
            }
        y, after = self.block.branch(
            rows, state=state, cu_seqlens=bounds, return_state=return_state
        )
        if after is not None:  # clones: views would keep the states of padding in memory
            after = {n: s.unflatten(0, (B, 2))[:, 0].clone() for n, s in after.items()}
        return y.reshape(B, T, D).gather(1, place_BTD), after
