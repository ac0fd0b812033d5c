# SPDX-License-Identifier: Apache-2.0
"""HiPPO-LegS and the diagonal systems that stand for it, side by side."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqlib.layers.ssm_init import (
    PTD,
    frequencies,
    hippo,
    legs_eig,
    legs_states,
    modal_states,
    normal,
    ptd_init,
)
from seqlib.layers.ssm_init.hippo import Real


@dataclass(frozen=True)
class System:
    """`x' = A x + b u` with n states.

    Attributes:
        name: what tables and plots call it.
        A, b: [n, n], [n] float64.
        states: `(i omega - A)^-1 b` [W, n] of omega [W].
        omega: frequencies that miss none of its resonances.
        kappa: condition number of its eigenvectors; None for HiPPO, which is not diagonalised.
        rel_norm: |E|_2 / |A|_2 of its distance to HiPPO.
    """

    name: str
    A: Real
    b: Real
    states: Callable[[Real], Any]
    omega: Real
    kappa: float | None
    rel_norm: float

    def transfer(self, omega: Real) -> Any:
        """`c (i omega - A)^-1 b` for the readout and input b / n of norm 1."""
        n = len(self.b)
        return self.states(omega) @ hippo("legs", n)[1] / n**2

    def worst_deviation(self) -> float:
        """The largest difference to HiPPO over readouts and inputs of norm 1, and omega."""
        n = len(self.b)
        gap = self.states(self.omega) - legs_states(n, self.omega)
        return float(np.linalg.norm(gap, axis=-1).max() / n)


def hippo_system(n: int) -> System:
    A, b = hippo("legs", n)
    return System(
        "HiPPO", A, b, lambda w: legs_states(n, w), frequencies(np.zeros(1, complex)), None, 0.0
    )


def s4d_system(n: int) -> System:
    """The normal part of LegS with half of b, which is what comes nearest to HiPPO."""
    lam, V, Vinv = legs_eig(n)
    b = hippo("legs", n)[1] / 2
    gap = normal("legs", n) - hippo("legs", n)[0]
    return System(
        "S4D-LegS",
        normal("legs", n),
        b,
        lambda w: modal_states(lam, V, Vinv @ b, w),
        frequencies(lam),
        1.0,
        _relative(gap, n),
    )


def ptd_system(name: str, ptd: PTD) -> System:
    """LegS with a real perturbation."""
    A, b = hippo("legs", len(ptd.lam))
    return System(
        name,
        A + np.real(ptd.E),
        b,
        lambda w: modal_states(ptd.lam, ptd.V, ptd.Vinv @ b, w),
        frequencies(ptd.lam),
        ptd.kappa,
        ptd.rel_norm,
    )


def systems(n: int, thetas: Iterable[float] = (0.2,)) -> list[System]:
    """HiPPO, S4D-LegS, the optimised PTD and a rank-one PTD for each theta."""
    rank_one = [
        ptd_system(f"PTD, rank one, θ = {theta:g}", ptd_init(n, "rank1", theta=theta))
        for theta in thetas
    ]
    return [hippo_system(n), s4d_system(n), ptd_system("PTD, optimised", ptd_init(n)), *rank_one]


def _relative(E: Real, n: int) -> float:
    return float(np.linalg.norm(E, 2) / np.linalg.norm(hippo("legs", n)[0], 2))
