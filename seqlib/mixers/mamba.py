# SPDX-License-Identifier: Apache-2.0
"""Mamba: a diagonal recurrence whose step sizes, inputs and outputs depend on the token."""

import torch
from seqlib_kernels import selective_scan, selective_scan_step
from torch import Tensor, nn

from .checks import check_positive, whole
from .mamba_mixer import MambaMixer, Op
from .step_sizes import fresh_dt_bias


class Mamba(MambaMixer):
    """`h = a h + Delta u B; y = sum_n h C + D u`, times silu(z), N states per channel.

    u, z = in_proj(x), u through a short convolution and silu; dt, B, C = x_proj(u), dt through
    dt_proj. No MLP goes with it where it was published: `intermediate_size=0`.

    Args:
        hidden_size: D.
        d_state: N.
        d_conv: taps of the convolution.
        expand: channels of the recurrence in units of D.
        dt_rank: width of dt before dt_proj; D / 16, rounded up, by default.
        use_bias: biases of in_proj and out_proj.
        conv_bias: bias of the convolution.
        negative_eigenvalues: a = 2 exp(Delta A) - 1 instead of exp(Delta A), so that a state can
            change its sign; False for checkpoints trained elsewhere.

    State: `recurrent` [B, expand D, N] in float32, `conv` [B, d_conv - 1, expand D].

    Sources: arXiv 2312.00752, 2411.12537.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2.0,
        dt_rank: int | None = None,
        use_bias: bool = False,
        conv_bias: bool = True,
        negative_eigenvalues: bool = True,
    ):
        check_positive(d_state=d_state, expand=expand, dt_rank=dt_rank)
        d_inner = whole("the inner width", hidden_size * expand, "hidden_size * expand")
        super().__init__(
            hidden_size,
            d_inner=d_inner,
            d_proj=2 * d_inner,
            d_mixed=d_inner,
            d_conv=d_conv,
            use_bias=use_bias,
            conv_bias=conv_bias,
            negative_eigenvalues=negative_eigenvalues,
        )
        self.d_inner, self.d_state = d_inner, d_state
        self.dt_rank = dt_rank or -(-hidden_size // 16)
        self.make_own()
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = _StepProjection(self.dt_rank, d_inner, bias=False)

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values of this module's own parameters: rates 1 ... N in every channel."""
        rates = torch.arange(1.0, self.d_state + 1).expand(self.d_inner, self.d_state)
        return {
            "A_log": rates.log(),
            "D": torch.ones(self.d_inner),
            "dt_bias": fresh_dt_bias(self.d_inner),
        }

    def split(self, projected: Tensor) -> tuple[Tensor, ...]:
        return projected.chunk(2, dim=-1)

    def mix(self, mixed: Tensor, *rest: Tensor, recur: Op) -> tuple[Tensor, Tensor | None]:
        (z,) = rest
        dt, B, C = self.x_proj(mixed).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        return recur(selective_scan, selective_scan_step, mixed, self.dt_proj(dt), B, C, z)


class _StepProjection(nn.Linear):
    """From dt_rank values to a step size per channel, without shrinking what comes in."""

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values of this module's own parameters."""
        bound = self.in_features**-0.5
        return {"weight": torch.empty(self.weight.shape).uniform_(-bound, bound)}
