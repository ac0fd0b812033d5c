# SPDX-License-Identifier: Apache-2.0
"""The state-space model of LSSL: one dense matrix for all channels, one step size for each."""

from typing import Any, ClassVar

import torch
from seqlib_kernels import dense_ssm, dense_ssm_step
from torch import Tensor

from ..layers.ssm_init import hippo
from .names import unknown_name
from .ssm_core import SSMCore
from .ssm_rows import along_time, to_front, to_rows

INITS = ("legs", "legt", "fout")


class DenseCore(SSMCore):
    """`x' = A x + B u`, `y = C x + D u` for every channel, B as HiPPO has it.

    A is a matrix, or P (diag(R) + T^-1) Q with diagonal P and Q and a tridiagonal T.

    Args:
        hidden_size: H.
        d_state: N.
        init: the HiPPO matrix that A and B start from; "legs" only if structured.
        channels: K outputs per channel.
        alpha: of the generalised bilinear transform.
        structured: learn the factors instead of the matrix.
        steps: the arguments of `SSMCore`.

    Source: arXiv 2110.13985.
    """

    keep_in_float32: ClassVar = ("A", "P", "Q", "R", "T", "B", "C", "D", "inv_dt")
    dynamics: ClassVar = ("A", "P", "Q", "R", "T")

    A: Tensor
    P: Tensor
    Q: Tensor
    R: Tensor
    T: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int,
        init: str,
        channels: int,
        alpha: float,
        structured: bool,
        **steps: Any,
    ):
        super().__init__(**steps)
        known = INITS[:1] if structured else INITS
        if init not in known:
            raise unknown_name("init", init, known)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        self.d_state, self.init, self.alpha, self.structured = d_state, init, alpha, structured
        N = d_state
        self.register_buffer("B", torch.empty(N))
        factors = {"P": (N,), "Q": (N,), "R": (N,), "T": (3, N)}
        self.make_own(
            **(factors if structured else {"A": (N, N)}),
            C=(channels, hidden_size, N),
            D=(channels, hidden_size),
            inv_dt=(hidden_size,),
        )

    def initial_values(self) -> dict[str, Tensor]:
        """HiPPO read by real normal numbers."""
        A, B = (torch.from_numpy(x) for x in hippo(self.init, self.d_state))
        i = torch.arange(self.d_state, dtype=torch.float64)
        one = torch.ones_like(i)
        # LegS: the sums that T^-1 takes, minus those over the diagonal that A has otherwise
        factors = {"P": B, "Q": B, "R": i / (2 * i + 1), "T": torch.stack((one, -one, 0 * one))}
        return {
            **(factors if self.structured else {"A": A}),
            "B": B,
            "C": torch.randn(self.C.shape, dtype=torch.float64, device="cpu"),
            "D": torch.randn(self.D.shape, dtype=torch.float64, device="cpu"),
            "inv_dt": self.fresh_inv_dt(),
        }

    def matrix(self) -> Tensor:
        """A [N, N] in float64."""
        if not self.structured:
            return self.A.double()
        below, main, above = self.T.double()
        T = main.diag() + below[1:].diag(-1) + above[:-1].diag(1)
        middle = torch.linalg.inv(T) + self.R.double().diag()
        return self.P.double()[:, None] * middle * self.Q.double()

    def continuous(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """A [N, N], B [N], C [K, H, N], dt [H], D [K, H]."""
        B, C, D = (x.to(dtype) for x in (self.B, self.C, self.D))
        return self.matrix(), B, C, self.dt() * self.rate, D

    def step(self, u: Tensor, given: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = dense_ssm_step(u, *given, alpha=self.alpha, state=state)
        return y.flatten(2), state

    def run(
        self,
        u: Tensor,
        given: tuple[Tensor, ...],
        state: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        if cu_seqlens is not None:
            rows, where = to_rows(u, cu_seqlens)
            y, _ = dense_ssm(rows, *given, alpha=self.alpha)
            return y[where].flatten(1)[None], None
        back = lengths = None
        if mask is not None:
            (order, back), lengths = to_front(mask), mask.sum(1)
            u = along_time(u, order)
        y, last = dense_ssm(
            u,
            *given,
            alpha=self.alpha,
            initial_state=state,
            return_final_state=return_state,
            lengths=lengths,
        )
        y = y.flatten(2)
        return y if back is None else along_time(y, back), last
