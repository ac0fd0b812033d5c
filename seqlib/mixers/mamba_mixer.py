# SPDX-License-Identifier: Apache-2.0
"""What Mamba and Mamba-2 have in common: projections, convolution, step sizes, states, masks."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..layers.short_conv import ShortConvolution
from .base import Mixer, check_call
from .checks import check_positive

# An op, its step, or what runs one of the two: returns the output and the last state.
Op = Callable[..., tuple[Tensor, Tensor | None]]


class MambaMixer(Mixer):
    """A recurrence whose decay and input gate come from one step size Delta per token.

    a = exp(Delta A) with A = -exp(A_log), or 2 exp(Delta A) - 1 with `negative_eigenvalues`,
    which covers (-1, 1) instead of (0, 1); the map is the same in training and in generation.
    Delta = softplus(dt + dt_bias). The decay, its parameters and the states are float32 at
    least, whatever the dtype of the input.

    Args:
        hidden_size: D.
        d_inner: channels of the recurrence.
        d_proj: outputs of in_proj.
        d_mixed: channels that go through the convolution.
        d_conv: its taps.
        use_bias: biases of in_proj and out_proj.
        conv_bias: bias of the convolution.

    State: `recurrent` in float32 and `conv` [B, d_conv - 1, d_mixed]: the same size after any
    number of tokens.
    """

    no_weight_decay: ClassVar = ("A_log", "D", "dt_bias")
    keep_in_float32: ClassVar = no_weight_decay

    A_log: nn.Parameter
    D: nn.Parameter
    dt_bias: nn.Parameter

    def __init__(
        self,
        hidden_size: int,
        *,
        d_inner: int,
        d_proj: int,
        d_mixed: int,
        d_conv: int,
        use_bias: bool,
        conv_bias: bool,
        negative_eigenvalues: bool,
    ):
        super().__init__(hidden_size)
        check_positive(d_conv=d_conv)
        self.negative_eigenvalues = negative_eigenvalues
        self.in_proj = nn.Linear(hidden_size, d_proj, bias=use_bias)
        self.conv1d = ShortConvolution(d_mixed, d_conv, bias=conv_bias)
        self.out_proj = nn.Linear(d_inner, hidden_size, bias=use_bias)

    def make_own(self) -> None:
        """Make the parameters that `initial_values` names; each mixer does when it has sizes."""
        for name, value in self.initial_values().items():
            setattr(self, name, nn.Parameter(value))

    @abstractmethod
    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values of A_log, D and dt_bias."""

    @abstractmethod
    def split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """What in_proj gives, as: inputs of the convolution [B, T, d_mixed], and the rest."""

    @abstractmethod
    def mix(self, mixed: Tensor, *rest: Tensor, recur: Op) -> tuple[Tensor, Tensor | None]:
        """From the convolution's outputs [B, T, d_mixed] to [B, T, d_inner] and the last state.

        Args:
            rest: what else `split` gave.
            recur: `recur(op, step, x, dt, B, C, *gate)` runs the recurrence.
        """

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
        mixed, *rest = self.split(self.in_proj(x))
        mixed, conv = self.conv1d(
            mixed,
            state=None if state is None else state["conv"],
            mask=mask,
            cu_seqlens=cu_seqlens,
            return_state=return_state,
        )
        recur = partial(
            self._recur,
            state=None if state is None else state["recurrent"],
            mask=mask,
            cu_seqlens=cu_seqlens,
            return_state=return_state,
        )
        y, recurrent = self.mix(mixed, *rest, recur=recur)
        y = self.out_proj(y)
        if not return_state:
            return y, None
        assert conv is not None  # both were asked for
        assert recurrent is not None
        return y, {"conv": conv, "recurrent": recurrent}

    def _recur(
        self,
        op: Op,
        step: Op,
        x: Tensor,
        dt: Tensor,
        B: Tensor,
        C: Tensor,
        *gate: Tensor,
        state: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(x.dtype, torch.float32)
        if mask is not None:  # Delta = 0: decay 1 and no input leave the state alone
            dt = dt.masked_fill(~mask[..., None], -torch.inf)
        inputs = (x, dt, -self.A_log.to(wide).exp(), B, C, self.D.to(wide), *gate)
        dt_bias, negative = self.dt_bias.to(wide), self.negative_eigenvalues
        if x.shape[1] == 1 and state is not None:
            return step(
                *inputs,
                dt_bias=dt_bias,
                dt_softplus=True,
                negative_eigenvalues=negative,
                state=state,
            )
        return op(
            *inputs,
            dt_bias=dt_bias,
            dt_softplus=True,
            negative_eigenvalues=negative,
            initial_state=state,
            return_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )
