# SPDX-License-Identifier: Apache-2.0
"""What DeltaNet, Gated DeltaNet and DeltaProduct have in common, which is nearly everything."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from seqlib_kernels import delta_rule, delta_rule_step
from torch import Tensor, nn

from ..layers.norm import RMSNorm
from ..layers.short_conv import ShortConvolution
from .base import Mixer, check_call
from .checks import check_positive
from .step_sizes import fresh_dt_bias


class DeltaMixer(Mixer):
    """A recurrence whose state is corrected towards `S'k = v` by `num_householder` steps a token.

    q, k, v = projections of x, a short convolution and silu; beta = sigmoid(b_proj(x)), twice
    that with `negative_eigenvalues`, so that the transition `I - beta k k'` has eigenvalues in
    [-1, 1] instead of [0, 1]; log decay = -exp(A_log) softplus(a_proj(x) + dt_bias) with
    `use_forget_gate`; y = o_proj(norm(o)), with norm(o) * silu(g_proj(x)) under `use_gate`.
    beta and the decay are computed in float32, whatever the dtype of the parameters.

    Args:
        hidden_size: D.
        num_heads: H, of queries and keys.
        num_v_heads: HV, of values, a multiple of H.
        head_k_dim, head_v_dim: K and V.
        num_householder: n; the outputs of k_proj, v_proj, b_proj are ordered (n, head, dim).

    State: `recurrent` [B, HV, K, V] in float32, and with the convolution `q_conv`, `k_conv`,
    `v_conv` [B, conv_size - 1, channels]: the same size after any number of tokens.
    """

    no_weight_decay: ClassVar = ("A_log", "dt_bias")
    keep_in_float32: ClassVar = no_weight_decay

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int,
        num_v_heads: int,
        head_k_dim: int,
        head_v_dim: int,
        num_householder: int,
        use_forget_gate: bool,
        use_gate: bool,
        use_short_conv: bool,
        conv_size: int,
        negative_eigenvalues: bool,
        norm_eps: float,
    ):
        super().__init__(hidden_size)
        check_positive(num_householder=num_householder, conv_size=conv_size, norm_eps=norm_eps)
        if num_v_heads % num_heads:
            raise ValueError(
                f"num_v_heads must be a multiple of num_heads={num_heads}, got {num_v_heads}"
            )
        self.num_heads, self.num_v_heads = num_heads, num_v_heads
        self.head_k_dim, self.head_v_dim = head_k_dim, head_v_dim
        self.num_householder = num_householder
        self.use_forget_gate, self.use_gate = use_forget_gate, use_gate
        self.use_short_conv = use_short_conv
        self.negative_eigenvalues = negative_eigenvalues

        n, k_dim, v_dim = num_householder, num_heads * head_k_dim, num_v_heads * head_v_dim
        self.q_proj = nn.Linear(hidden_size, k_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, n * k_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, n * v_dim, bias=False)
        self.b_proj = nn.Linear(hidden_size, n * num_v_heads, bias=False)
        if use_short_conv:
            self.q_conv1d = ShortConvolution(k_dim, conv_size)
            self.k_conv1d = ShortConvolution(n * k_dim, conv_size)
            self.v_conv1d = ShortConvolution(n * v_dim, conv_size)
        if use_forget_gate:
            self.a_proj = nn.Linear(hidden_size, num_v_heads, bias=False)
            own = self.initial_values()
            self.A_log, self.dt_bias = nn.Parameter(own["A_log"]), nn.Parameter(own["dt_bias"])
        if use_gate:
            self.g_proj = nn.Linear(hidden_size, v_dim, bias=False)
        self.o_norm = RMSNorm(head_v_dim, norm_eps)
        self.o_proj = nn.Linear(v_dim, hidden_size, bias=False)

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values of this module's own parameters: decay rates log-uniform over time."""
        if not self.use_forget_gate:
            return {}
        A = torch.empty(self.num_v_heads).uniform_(1e-4, 16)
        return {"A_log": A.log(), "dt_bias": fresh_dt_bias(self.num_v_heads)}

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
        n = self.num_householder
        new_state: dict[str, Tensor] = {}
        inputs = {"q": self.q_proj(x), "k": self.k_proj(x), "v": self.v_proj(x)}
        if self.use_short_conv:
            convs = {"q": self.q_conv1d, "k": self.k_conv1d, "v": self.v_conv1d}
            for name, conv in convs.items():
                inputs[name], last = conv(
                    inputs[name],
                    state=None if state is None else state[f"{name}_conv"],
                    mask=mask,
                    cu_seqlens=cu_seqlens,
                    return_state=return_state,
                )
                if last is not None:
                    new_state[f"{name}_conv"] = last
        else:
            inputs = {name: F.silu(value) for name, value in inputs.items()}
        q = inputs["q"].view(B, T, self.num_heads, self.head_k_dim)
        k = inputs["k"].view(B, T * n, self.num_heads, self.head_k_dim)
        v = inputs["v"].view(B, T * n, self.num_v_heads, self.head_v_dim)

        beta, g = self._gates(x)
        if mask is not None:  # beta = 0 and decay 1 leave the state alone
            beta = beta * mask.repeat_interleave(n, dim=1)[..., None]
            g = None if g is None else g * mask[..., None]
        recurrent = None if state is None else state["recurrent"]
        if T == 1 and recurrent is not None:
            o, recurrent = delta_rule_step(
                q, k, v, beta, g, normalize_qk=True, num_householder=n, state=recurrent
            )
        else:
            o, recurrent = delta_rule(
                q, k, v, beta, g,
                normalize_qk=True, num_householder=n, initial_state=recurrent,
                return_final_state=return_state, cu_seqlens=cu_seqlens,
            )  # fmt: skip
        gate = self.g_proj(x).view(o.shape) if self.use_gate else None
        y = self.o_proj(self.o_norm(o, gate).flatten(2))
        if not return_state:
            return y, None
        assert recurrent is not None  # asked for above
        new_state["recurrent"] = recurrent
        return y, new_state

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """beta [B, n*T, HV] and the log decay [B, T, HV] or None, in float32 at least."""
        B, T, _ = x.shape
        wide = torch.promote_types(x.dtype, torch.float32)
        beta = self.b_proj(x).to(wide).sigmoid()
        if self.negative_eigenvalues:
            beta = 2 * beta
        beta = beta.view(B, T * self.num_householder, self.num_v_heads)
        if not self.use_forget_gate:
            return beta, None
        dt = F.softplus(self.a_proj(x).to(wide) + self.dt_bias.to(wide))
        return beta, -self.A_log.to(wide).exp() * dt
