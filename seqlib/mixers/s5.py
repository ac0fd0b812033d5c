# SPDX-License-Identifier: Apache-2.0
"""S5: one state-space model for all channels, then a gate of the channels."""

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Mixer, check_call
from .checks import check_positive
from .names import unknown_name
from .s4 import check_no_state
from .s5_core import MimoCore
from .ssm_dropout import SequenceDropout

ACTIVATIONS = ("gelu", "half_glu1", "half_glu2", "full_glu")


class S5(Mixer):
    """S5 or S5-PTD: a state-space model of many inputs and outputs, and a gated activation.

    With x what the model gives and g = dropout(gelu(x)): "gelu" g; "half_glu1"
    g sigmoid(gate_proj(g)); "half_glu2" x sigmoid(gate_proj(g)); "full_glu"
    out_proj(g) sigmoid(gate_proj(g)); the products through dropout again.

    Args:
        hidden_size: H.
        d_state: states of the model before conjugates are left out.
        blocks: equal systems that it starts as, of d_state / blocks states each.
        init: of one system: "ptd" (HiPPO perturbed by the stored optimum of 8, 16, 32, 64 or 128
            states, or 2), "ptd_rank1" (by the closed form) or "legs" (its normal part).
        b_init: "lecun_normal", or "hippo": HiPPO's input vector for every channel.
        c_init: "lecun_normal", "trunc_standard_normal" or "complex_normal".
        discretization: "zoh" or "bilinear".
        dt_min, dt_max: bounds of the first step sizes, one per state.
        rate: factor of all step sizes: 0.5 for inputs sampled twice as finely as in training.
        conj_sym: keep one state of each conjugate pair; all, at twice the cost, if not.
        clip_eigs: hold real parts of eigenvalues below -1e-4.
        force_neg: take the real parts as minus the size of their parameters.
        bidirectional: outputs also depend on later tokens; there is no state then.
        ssm_lr: learning rate of the dynamics but the step sizes, that of the run if None.
        dt_lr: learning rate of the step sizes.
        opt_config: "standard": B belongs to the dynamics; "BandCdecay": it also has weight decay;
            "BfastandCdecay": it is a parameter as any other.
        activation: see above; gelu in its tanh form.
        dropout: drawn once per sequence and channel.

    State: `recurrent` [B, P, 2] in float32; P is d_state / 2, or a bit more where a PTD init has
    real eigenvalues.

    Sources: arXiv 2208.04933 (S5), 2310.01698 (S5-PTD).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int = 64,
        blocks: int = 1,
        init: str = "ptd",
        b_init: str = "lecun_normal",
        c_init: str = "lecun_normal",
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        rate: float = 1.0,
        conj_sym: bool = True,
        clip_eigs: bool = True,
        force_neg: bool = False,
        bidirectional: bool = False,
        ssm_lr: float | None = 1e-3,
        dt_lr: float | None = 1e-3,
        opt_config: str = "standard",
        activation: str = "half_glu1",
        dropout: float = 0.0,
    ):
        super().__init__(hidden_size)
        check_positive(hidden_size=hidden_size, d_state=d_state)
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.bidirectional, self.activation = bidirectional, activation
        self.ssm = MimoCore(
            hidden_size,
            d_state=d_state,
            blocks=blocks,
            init=init,
            b_init=b_init,
            c_init=c_init,
            discretization=discretization,
            conj_sym=conj_sym,
            clip_eigs=clip_eigs,
            force_neg=force_neg,
            bidirectional=bidirectional,
            opt_config=opt_config,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_transform="exp",
            rate=rate,
            trained=True,
            ssm_lr=ssm_lr,
            dt_lr=dt_lr,
        )
        self.dropout = SequenceDropout(dropout, tied=True)
        if activation != "gelu":
            self.gate_proj = nn.Linear(hidden_size, hidden_size)
        if activation == "full_glu":
            self.out_proj = nn.Linear(hidden_size, hidden_size)

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
        if self.bidirectional:
            check_no_state(state, return_state)
        before = None if state is None else state["recurrent"]
        y, after = self.ssm(x, before, mask, cu_seqlens, return_state)
        y = self._gate(y, cu_seqlens)
        return y, {"recurrent": after} if return_state else None

    def _gate(self, x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        g = self.dropout(F.gelu(x, approximate="tanh"), cu_seqlens)
        if self.activation == "gelu":
            return g
        gate = self.gate_proj(g).sigmoid()
        if self.activation == "half_glu2":
            g = x
        elif self.activation == "full_glu":
            g = self.out_proj(g)
        return self.dropout(g * gate, cu_seqlens)
