# SPDX-License-Identifier: Apache-2.0
"""S4: a linear time-invariant state-space model per channel, then a GLU that mixes channels."""

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Mixer, check_call
from .checks import check_positive
from .names import unknown_name
from .s4_dense import DenseCore
from .s4_diagonal import DiagonalCore
from .ssm_core import SSMCore
from .ssm_dropout import SequenceDropout

MODES = ("diag", "dense", "structured")


class S4(Mixer):
    """S4D, S4-PTD or LSSL: `glu(out_proj(gelu(ssm(x))))` with dropout around the gelu.

    Args:
        hidden_size: H.
        d_state: N, the states of one channel's system.
        mode: "diag": the system in N / 2 complex modes, or so; "dense": LSSL, with a matrix
            [N, N] for all channels; "structured": LSSL with the factors of its matrix.
        init: "ptd" (HiPPO perturbed by the stored optimum of N = 8, 16, 32, 64 or 128, or 2),
            "ptd_rank1" (by the closed form), or S4D's "legs", "fout", "lin", "inv", "inv2",
            "quad", "real", "diag" (inv and lin) and "hippo" (legs and fout). LSSL: "legs", "legt"
            or "fout".
        n_ssm: copies of the system, each shared by H / n_ssm channels; of mode "diag".
        channels: outputs of each channel's system, all of which out_proj reads.
        discretization: "zoh" or "bilinear"; LSSL is always bilinear.
        alpha: LSSL's transform: 0.5 trapezoidal, 1 backward Euler.
        dt_min, dt_max: bounds of the first step sizes.
        dt_transform: a step size is "exp" or "softplus" of its parameter.
        dt_tie: one step size per channel, else one per mode; of mode "diag".
        rate: factor of all step sizes: 0.5 for inputs sampled twice as finely as in training.
        bidirectional: outputs also depend on later tokens; there is no state then. Of mode "diag".
        tie_bc: learn the product of C and B only; of mode "diag".
        train_ssm: learn the dynamics (eigenvalues or matrix, B, step sizes); LSSL-fixed if not.
        ssm_lr: learning rate of the dynamics but the step sizes, that of the run if None.
        dt_lr: learning rate of the step sizes.
        activation: "gelu" or "none".
        glu: out_proj has 2 H outputs, of which one half gates the other.
        dropout: before and after the activation.
        tie_dropout: draw it once per sequence and channel.

    State: `recurrent` [B, channels H, M, 2], LSSL [B, H, N], in float32.

    Sources: arXiv 2111.00396, 2206.11893 (S4, S4D), 2310.01698 (S4-PTD), 2110.13985 (LSSL).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int = 64,
        mode: str = "diag",
        init: str = "ptd",
        n_ssm: int = 1,
        channels: int = 1,
        discretization: str = "zoh",
        alpha: float = 0.5,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        dt_transform: str = "softplus",
        dt_tie: bool = True,
        rate: float = 1.0,
        bidirectional: bool = False,
        tie_bc: bool = False,
        train_ssm: bool = True,
        ssm_lr: float | None = 1e-3,
        dt_lr: float | None = 1e-3,
        activation: str = "gelu",
        glu: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = False,
    ):
        super().__init__(hidden_size)
        check_positive(hidden_size=hidden_size, d_state=d_state, channels=channels)
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        if activation not in ("gelu", "none"):
            raise unknown_name("activation", activation, ("gelu", "none"))
        self.bidirectional, self.activation, self.glu = bidirectional, activation, glu
        steps = {
            "dt_min": dt_min,
            "dt_max": dt_max,
            "dt_transform": dt_transform,
            "rate": rate,
            "trained": train_ssm,
            "ssm_lr": ssm_lr,
            "dt_lr": dt_lr,
        }
        self.ssm: SSMCore
        if mode == "diag":
            if alpha != 0.5:
                raise ValueError(f"alpha must be 0.5 for mode 'diag', got {alpha}")
            self.ssm = DiagonalCore(
                hidden_size,
                d_state=d_state,
                init=init,
                n_ssm=n_ssm,
                channels=channels,
                discretization=discretization,
                dt_tie=dt_tie,
                bidirectional=bidirectional,
                tie_bc=tie_bc,
                **steps,
            )
        else:
            _check_dense(mode, n_ssm, discretization, dt_tie, bidirectional, tie_bc)
            self.ssm = DenseCore(
                hidden_size,
                d_state=d_state,
                init=init,
                channels=channels,
                alpha=alpha,
                structured=mode == "structured",
                **steps,
            )
        self.dropout = SequenceDropout(dropout, tied=tie_dropout)
        self.out_proj = nn.Linear(channels * hidden_size, (1 + glu) * hidden_size)

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
        y = self.dropout(y, cu_seqlens)
        if self.activation == "gelu":
            y = self.dropout(F.gelu(y), cu_seqlens)
        y = self.out_proj(y)
        if self.glu:
            y = F.glu(y)
        return y, {"recurrent": after} if return_state else None


def check_no_state(state: object, return_state: bool) -> None:
    """Refuse what a mixer that reads both directions can't have."""
    if state is not None or return_state:
        raise ValueError(
            "state and return_state must be left out with bidirectional=True (use_cache=False in "
            "a model): an output that depends on later tokens can't be continued"
        )


def _check_dense(
    mode: str, n_ssm: int, discretization: str, dt_tie: bool, bidirectional: bool, tie_bc: bool
) -> None:
    """Refuse options of mode "diag" that a dense system does not have."""
    for name, value, allowed in (
        ("n_ssm", n_ssm, 1),
        ("discretization", discretization, "bilinear"),
        ("dt_tie", dt_tie, True),
        ("bidirectional", bidirectional, False),
        ("tie_bc", tie_bc, False),
    ):
        if value != allowed:
            raise ValueError(f"{name} must be {allowed!r} for mode {mode!r}, got {value!r}")
