# SPDX-License-Identifier: Apache-2.0
"""How far diagonal systems are from HiPPO-LegS, what for, and at which frequency."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from seqlib.layers.ssm_init import PTD, ginibre, hippo, last_spike, ptd_init

from .ssm_systems import System, hippo_system, ptd_system, s4d_system
from .tables import markdown_table

THETAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
GAMMAS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
RATIOS = (1e-4, 1e-3, 1e-2, 1e-1)
SEEDS = 5  # of Gaussian perturbations, whose condition varies by several times


@dataclass(frozen=True)
class Loss:
    """What diagonalising LegS of n states by its normal part loses.

    Attributes:
        spike: the frequency of the highest resonance.
        theory: n^2 / pi, what it comes near.
        own: largest |G_S4D - G_HiPPO| for the readout b / n and the input of norm 1 along b.
        at: where that is.
        worst: the same over all readouts of norm 1.
        size: of HiPPO itself, the largest over all readouts of norm 1.
    """

    n: int
    spike: float
    theory: float
    own: float
    at: float
    worst: float
    size: float


@dataclass(frozen=True)
class Standing:
    """One system beside HiPPO of n states.

    Attributes:
        kappa: condition number of its eigenvectors.
        rel_norm: |E|_2 / |A|_2 of its distance to HiPPO.
        highest: the largest real part of an eigenvalue.
        worst: the largest difference to HiPPO over readouts of norm 1, and frequencies.
    """

    system: str
    n: int
    kappa: float
    rel_norm: float
    highest: float
    worst: float


@dataclass(frozen=True)
class Trade:
    """One perturbation.

    Attributes:
        method, parameter: gamma of an optimised one, theta of one of rank one, and |E|_2 / |A|_2
            of a Gaussian one.
        rel_norm: |E|_2 / |A|_2.
        kappa: condition number of the eigenvectors.
        worst: worst deviation from HiPPO, of stable methods.
        highest: the largest real part of an eigenvalue.
    """

    method: str
    n: int
    parameter: float
    rel_norm: float
    kappa: float
    worst: float | None
    highest: float


def loss_of_diagonal(n: int) -> Loss:
    """What S4D-LegS loses, measured on a grid that misses none of its resonances."""
    exact, s4d = hippo_system(n), s4d_system(n)
    omega = s4d.omega
    gap = np.abs(s4d.transfer(omega) - exact.transfer(omega))
    size = np.linalg.norm(exact.states(omega), axis=-1).max() / n
    return Loss(
        n=n,
        spike=last_spike(n),
        theory=n**2 / np.pi,
        own=float(gap.max()),
        at=float(omega[gap.argmax()]),
        worst=s4d.worst_deviation(),
        size=float(size),
    )


def loss_table(losses: Iterable[Loss]) -> str:
    """The table in Markdown, a row per n."""
    header = ["n", "ω*", "n²/π", "own readout", "at ω", "worst readout", "HiPPO itself"]
    rows = [
        [
            str(loss.n),
            f"{loss.spike:.2f}",
            f"{loss.theory:.2f}",
            f"{loss.own:.5f}",
            f"{loss.at:.2f}",
            f"{loss.worst:.4f}",
            f"{loss.size:.5f}",
        ]
        for loss in losses
    ]
    return markdown_table(header, rows, numbers=range(len(header)))


def standing(system: System) -> Standing:
    """How `system`, which is not HiPPO itself, stands beside HiPPO."""
    if system.kappa is None:
        raise ValueError(f"system must be a diagonalised one, got {system.name}")
    return Standing(
        system=system.name,
        n=len(system.b),
        kappa=system.kappa,
        rel_norm=system.rel_norm,
        highest=float(np.real(np.linalg.eigvals(system.A)).max()),
        worst=system.worst_deviation(),
    )


def standing_table(standings: Iterable[Standing]) -> str:
    """The table in Markdown, a row per system."""
    header = ["system", "n", "κ(V)", "‖E‖ / ‖A‖", "max Re λ", "worst deviation"]
    rows = [
        [
            s.system,
            str(s.n),
            f"{s.kappa:.2f}",
            f"{s.rel_norm:.4f}",
            f"{s.highest:.3f}",
            f"{s.worst:.4f}",
        ]
        for s in standings
    ]
    return markdown_table(header, rows, numbers=range(1, len(header)))


def trades(n: int) -> list[Trade]:
    """Perturbations of every method over the range of its parameter; Gaussian ones as medians."""
    found = [_trade("optimised", gamma, ptd_init(n, gamma=gamma)) for gamma in GAMMAS]
    found += [_trade("rank one", theta, ptd_init(n, "rank1", theta=theta)) for theta in THETAS]
    A = hippo("legs", n)[0]
    for ratio in RATIOS:
        pairs = [np.linalg.eig(A + ginibre(n, ratio, seed)) for seed in range(SEEDS)]
        kappa = float(np.median([np.linalg.cond(V) for _, V in pairs]))
        highest = float(np.median([np.real(lam).max() for lam, _ in pairs]))
        found.append(Trade("Gaussian", n, ratio, ratio, kappa, None, highest))
    return found


def _trade(method: str, parameter: float, ptd: PTD) -> Trade:
    return Trade(
        method=method,
        n=len(ptd.lam),
        parameter=parameter,
        rel_norm=ptd.rel_norm,
        kappa=ptd.kappa,
        worst=ptd_system(method, ptd).worst_deviation(),
        highest=ptd.max_re_before_fix,
    )
