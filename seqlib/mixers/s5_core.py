# SPDX-License-Identifier: Apache-2.0
"""The state-space model of S5 and S5-PTD: diagonal, with all channels in and out of every state."""

from typing import Any, ClassVar

import torch
from seqlib_kernels import mimo_ssm, mimo_ssm_step
from torch import Tensor

from ..layers.ssm_init import s5_init
from .names import unknown_name
from .ssm_core import DISCRETIZATIONS, SLOWEST, SSMCore, count_modes, pairs
from .ssm_rows import run_masked

INITS = ("ptd", "ptd_rank1", "legs")
B_INITS = ("lecun_normal", "hippo")
C_INITS = ("lecun_normal", "trunc_standard_normal", "complex_normal")
# Learning rate and weight decay of B; C always has those of the run.
OPTIM_OF_B = {
    "standard": ("ssm_lr", 0.0),
    "BandCdecay": ("ssm_lr", None),
    "BfastandCdecay": (None, None),
}


class MimoCore(SSMCore):
    """`x' = lam x + B u`, `y = w Re(C x) + D u` with P complex states that read all H channels.

    lam = Lambda_re + i Lambda_im; every state has its own step size.

    Args:
        hidden_size: H.
        d_state: states before conjugates are left out.
        blocks: equal systems that make up lam, of d_state / blocks states each.
        init: of one system.
        b_init, c_init: of B and C, see `s5_init`.
        discretization: "zoh" or "bilinear".
        conj_sym: keep one of each conjugate pair, w = 2; else all states, w = 1.
        clip_eigs: hold the real part of lam below -1e-4.
        force_neg: take the real part as -|Lambda_re|.
        bidirectional: a second set of states runs from right to left, C reads both.
        opt_config: the optimizer's view of B: "standard" as the rest of the dynamics;
            "BandCdecay" with weight decay; "BfastandCdecay" as any other parameter.
        steps: the arguments of `SSMCore`.
    """

    keep_in_float32: ClassVar = ("Lambda_re", "Lambda_im", "B", "C", "D", "inv_dt")
    dynamics: ClassVar = ("Lambda_re", "Lambda_im", "B")

    Lambda_re: Tensor
    Lambda_im: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int,
        blocks: int,
        init: str,
        b_init: str,
        c_init: str,
        discretization: str,
        conj_sym: bool,
        clip_eigs: bool,
        force_neg: bool,
        bidirectional: bool,
        opt_config: str,
        **steps: Any,
    ):
        super().__init__(**steps)
        for kind, name, known in (
            ("init", init, INITS),
            ("b_init", b_init, B_INITS),
            ("c_init", c_init, C_INITS),
            ("discretization", discretization, DISCRETIZATIONS),
            ("opt_config", opt_config, OPTIM_OF_B),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)
        if blocks < 1 or d_state % blocks:
            raise ValueError(f"blocks must divide d_state={d_state}, got {blocks}")
        self.d_state, self.blocks, self.opt_config = d_state, blocks, opt_config
        self.init, self.b_init, self.c_init = init, b_init, c_init
        self.discretization, self.conj_sym = discretization, conj_sym
        self.clip_eigs, self.force_neg, self.bidirectional = clip_eigs, force_neg, bidirectional
        P = d_state
        if conj_sym:
            P = blocks * count_modes(init, d_state // blocks, "d_state / blocks")
        self.make_own(
            Lambda_re=(P,),
            Lambda_im=(P,),
            B=(P, hidden_size, 2),
            C=(hidden_size, (1 + bidirectional) * P, 2),
            D=(hidden_size,),
            inv_dt=(P,),
        )

    def initial_values(self) -> dict[str, Tensor]:
        """Blocks of one diagonalised system, and random maps to and from its original states."""
        found = s5_init(
            self.d_state,
            self.blocks,
            self.D.shape[0],
            init=self.init,
            b_init=self.b_init,
            c_init=self.c_init,
            conj_sym=self.conj_sym,
            bidirectional=self.bidirectional,
        )
        lam, B, C, D = (torch.from_numpy(found[name]) for name in ("lam", "B", "C", "D"))
        return {
            "Lambda_re": lam.real,
            "Lambda_im": lam.imag,
            "B": pairs(B),
            "C": pairs(C),
            "D": D,
            "inv_dt": self.fresh_inv_dt(),
        }

    def optim_options(self) -> dict[str, dict[str, float | None]]:
        """As the dynamics', but for B."""
        lr, weight_decay = OPTIM_OF_B[self.opt_config]
        B = {"lr": lr and self.ssm_lr, "weight_decay": weight_decay}
        return super().optim_options() | {"B": B}

    def continuous(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """A [P, 2], B [P, H, 2], C [H, P, 2] or [H, 2P, 2], dt [P], D [H]."""
        real = self.Lambda_re.double()
        if self.force_neg:
            real = -real.abs()
        if self.clip_eigs:
            real = real.clamp_max(SLOWEST)
        A = torch.stack((real, self.Lambda_im.double()), -1)
        return A, self.B.to(dtype), self.C.to(dtype), self.dt(), self.D.to(dtype)

    def step(self, u: Tensor, given: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        return mimo_ssm_step(u, *given, **self._options(), state=state)

    def run(
        self,
        u: Tensor,
        given: tuple[Tensor, ...],
        state: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        def op(u: Tensor, **how: Any) -> tuple[Tensor, Tensor | None]:
            return mimo_ssm(u, *given, **self._options(), bidirectional=self.bidirectional, **how)

        return run_masked(op, u, state, mask, cu_seqlens, return_state)

    def _options(self) -> Any:
        return {
            "discretization": self.discretization,
            "rate": self.rate,
            "conj_sym": self.conj_sym,
        }
