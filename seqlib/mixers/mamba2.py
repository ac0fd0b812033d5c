# SPDX-License-Identifier: Apache-2.0
"""Mamba-2: one decay per head, so that the state is a matrix and chunks are matrix products."""

import torch
from seqlib_kernels import ssd, ssd_step
from torch import Tensor

from ..layers.norm import RMSNorm
from .checks import check_positive, whole
from .mamba_mixer import MambaMixer, Op
from .step_sizes import fresh_dt_bias


class Mamba2(MambaMixer):
    """`S = a S + (Delta x) B'; y = S C + D x` per head, then norm(y * silu(z)).

    z, (x, B, C), dt = in_proj(x), with one short convolution and silu over x, B and C. No MLP
    goes with it where it was published: `intermediate_size=0`.

    Args:
        hidden_size: D.
        d_state: N.
        d_conv: taps of the convolution.
        expand: channels of the recurrence in units of D.
        head_dim: P, channels of a head; a divisor of expand D.
        n_groups: groups of heads that share B and C and are normed together; a divisor of the
            number of heads.
        use_bias: biases of in_proj and out_proj.
        conv_bias: bias of the convolution.
        negative_eigenvalues: a = 2 exp(Delta A) - 1 instead of exp(Delta A), so that a state can
            change its sign; False for checkpoints trained elsewhere.
        norm_eps: of the output norm.

    State: `recurrent` [B, H, P, N] in float32, `conv` [B, d_conv - 1, expand D + 2 n_groups N].

    Sources: arXiv 2405.21060, 2411.12537.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        expand: float = 2.0,
        head_dim: int = 64,
        n_groups: int = 1,
        use_bias: bool = False,
        conv_bias: bool = True,
        negative_eigenvalues: bool = True,
        norm_eps: float = 1e-6,
    ):
        check_positive(d_state=d_state, expand=expand, head_dim=head_dim, n_groups=n_groups)
        check_positive(norm_eps=norm_eps)
        d_inner = whole("the inner width", hidden_size * expand, "hidden_size * expand")
        if d_inner % head_dim:
            raise ValueError(
                f"head_dim must divide hidden_size * expand = {d_inner}, got {head_dim}"
            )
        num_heads = d_inner // head_dim
        if num_heads % n_groups:
            raise ValueError(
                f"n_groups must divide the number of heads, {num_heads}, got {n_groups}"
            )
        d_mixed = d_inner + 2 * n_groups * d_state
        super().__init__(
            hidden_size,
            d_inner=d_inner,
            d_proj=d_inner + d_mixed + num_heads,
            d_mixed=d_mixed,
            d_conv=d_conv,
            use_bias=use_bias,
            conv_bias=conv_bias,
            negative_eigenvalues=negative_eigenvalues,
        )
        self.num_heads, self.head_dim = num_heads, head_dim
        self.d_inner, self.d_state, self.n_groups = d_inner, d_state, n_groups
        self.make_own()
        self.norm = RMSNorm(d_inner, norm_eps, gate_first=True, groups=n_groups)

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values of this module's own parameters: rates uniform between 1 and 16."""
        return {
            "A_log": torch.empty(self.num_heads).uniform_(1, 16).log(),
            "D": torch.ones(self.num_heads),
            "dt_bias": fresh_dt_bias(self.num_heads),
        }

    def split(self, projected: Tensor) -> tuple[Tensor, ...]:
        d_mixed = projected.shape[-1] - self.d_inner - self.num_heads
        z, mixed, dt = projected.split((self.d_inner, d_mixed, self.num_heads), dim=-1)
        return mixed, z, dt

    def mix(self, mixed: Tensor, *rest: Tensor, recur: Op) -> tuple[Tensor, Tensor | None]:
        z, dt = rest
        d_group = self.n_groups * self.d_state
        x, B, C = mixed.split((self.d_inner, d_group, d_group), dim=-1)
        y, recurrent = recur(
            ssd,
            ssd_step,
            x.unflatten(-1, (self.num_heads, self.head_dim)),
            dt,
            B.unflatten(-1, (self.n_groups, self.d_state)),
            C.unflatten(-1, (self.n_groups, self.d_state)),
        )
        return self.norm(y.flatten(2), z), recurrent
