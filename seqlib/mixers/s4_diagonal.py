# SPDX-License-Identifier: Apache-2.0
"""The state-space model of S4D and S4-PTD: diagonal, one input and one output per channel."""

from typing import Any, ClassVar

import numpy as np
import torch
from seqlib_kernels import diagonal_ssm, diagonal_ssm_step
from torch import Tensor

from ..layers.ssm_init import ptd_init, s4d_copies
from .names import unknown_name
from .ssm_core import DISCRETIZATIONS, SLOWEST, SSMCore, complex_normal, count_modes, pairs
from .ssm_rows import run_masked

PTD = {"ptd": "optimise", "ptd_rank1": "rank1"}
S4D = ("legs", "fout", "lin", "inv", "inv2", "quad", "real", "diag", "hippo")
COMBINED = ("diag", "hippo")


class DiagonalCore(SSMCore):
    """`x' = lam x + B u`, `y = 2 Re sum C x + D u` for every channel, with M modes.

    lam = -exp(A_real) + i A_imag.

    Args:
        hidden_size: H.
        d_state: N, the states that M modes stand for.
        init: where lam, B and C start.
        n_ssm: S copies of lam and B; channel h has copy h mod S.
        channels: K outputs per channel.
        discretization: "zoh" or "bilinear".
        dt_tie: one step size per channel, else one per mode.
        bidirectional: a second C reads what comes after a token, from right to left.
        tie_bc: C stands for the product of both and there is no B.
        steps: the arguments of `SSMCore`.
    """

    keep_in_float32: ClassVar = ("A_real", "A_imag", "B", "C", "D", "inv_dt")
    dynamics: ClassVar = ("A_real", "A_imag", "B")

    A_real: Tensor
    A_imag: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int,
        init: str,
        n_ssm: int,
        channels: int,
        discretization: str,
        dt_tie: bool,
        bidirectional: bool,
        tie_bc: bool,
        **steps: Any,
    ):
        super().__init__(**steps)
        if init not in PTD and init not in S4D:
            raise unknown_name("init", init, (*PTD, *S4D))
        if discretization not in DISCRETIZATIONS:
            raise unknown_name("discretization", discretization, DISCRETIZATIONS)
        if n_ssm < 1 or hidden_size % n_ssm:
            raise ValueError(f"n_ssm must divide hidden_size={hidden_size}, got {n_ssm}")
        if init in COMBINED and n_ssm % 2:
            raise ValueError(f"n_ssm must be even for init {init!r}, two in one, got {n_ssm}")
        self.discretization = discretization
        self.d_state, self.init, self.bidirectional = d_state, init, bidirectional
        self.tie_bc = tie_bc
        M = count_modes(init, d_state, "d_state")
        shapes = {
            "A_real": (n_ssm, M),
            "A_imag": (n_ssm, M),
            "B": (n_ssm, M, 2),
            "C": (1 + bidirectional, channels, hidden_size, M, 2),
            "D": (channels, hidden_size),
            "inv_dt": (hidden_size,) if dt_tie else (hidden_size, M),
        }
        if tie_bc:
            del shapes["B"]
        self.make_own(**shapes)

    def initial_values(self) -> dict[str, Tensor]:
        """HiPPO read by real normal numbers with a PTD init, complex normal C with the others."""
        *heads, M, _ = self.C.shape
        copies, _ = self.A_real.shape
        if self.init in PTD:
            modes = ptd_init(self.d_state, PTD[self.init]).modes()
            c = torch.randn(*heads, self.d_state, dtype=torch.float64, device="cpu")
            lam, B = (np.broadcast_to(x, (copies, M)) for x in (modes.lam, modes.B))
            C = torch.from_numpy(modes.readout(c.numpy()))
        else:
            lam, B = s4d_copies(self.init, self.d_state, copies)
            C = torch.view_as_complex(complex_normal(*heads, M))
        B = torch.from_numpy(np.array(B))
        if self.tie_bc:
            C = C * B.repeat(self.C.shape[2] // copies, 1)
        values = {
            "A_real": torch.from_numpy(np.log(-lam.real)),
            "A_imag": torch.from_numpy(np.array(lam.imag)),
            "B": pairs(B),
            "C": pairs(C),
            "D": torch.randn(self.D.shape, dtype=torch.float64, device="cpu"),
            "inv_dt": self.fresh_inv_dt(),
        }
        return {name: value for name, value in values.items() if hasattr(self, name)}

    def continuous(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """A [S, M, 2], B, C [K H, M, 2] or [2, K H, M, 2], dt [K H] or [K H, M], D [K H]."""
        real = self.A_real.double().exp().neg().clamp_max(SLOWEST)
        A = torch.stack((real, self.A_imag.double()), -1)
        B = torch.tensor([1.0, 0.0]).to(A).expand_as(A) if self.tie_bc else self.B.to(dtype)
        C = self.C.to(dtype).flatten(1, 2)
        dt = self.dt().repeat(self.D.shape[0], *[1] * (self.inv_dt.ndim - 1))
        return A, B, C if self.bidirectional else C[0], dt, self.D.to(dtype).flatten()

    def step(self, u: Tensor, given: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        return diagonal_ssm_step(self._inputs(u), *given, **self._options(), state=state)

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
            return diagonal_ssm(
                u, *given, **self._options(), bidirectional=self.bidirectional, **how
            )

        return run_masked(op, self._inputs(u), state, mask, cu_seqlens, return_state)

    def _options(self) -> Any:
        return {"discretization": self.discretization, "rate": self.rate}

    def _inputs(self, u: Tensor) -> Tensor:
        """u once for each of K outputs: [B, T, K H]."""
        K = self.D.shape[0]
        return u if K == 1 else u.repeat(1, 1, K)
