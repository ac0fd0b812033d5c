# SPDX-License-Identifier: Apache-2.0
"""A delay line read from the states of a system, with noise at the frequency that S4D amplifies.

Nothing is trained by gradients: readouts are fitted by least squares on clean signals, so that
what noise does to the error is a property of the system alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from seqlib.layers.ssm_init import last_spike
from seqlib.layers.ssm_init.hippo import Real

from .ssm_systems import System
from .tables import markdown_table, over_seeds


@dataclass(frozen=True)
class DelayLine:
    """The experiment's sizes.

    Attributes:
        dt: step of the input.
        delay: what is read, the input so long ago in units of time.
        train, test: number of sequences.
        steps: their length, of which the first `dropped` are not looked at.
        tones: sinusoids in a sequence, of 50 to 400 steps each.
        readouts: random ones around which is fitted.
        ridge: penalty on leaving them, per row.
    """

    dt: float = 0.005
    delay: float = 0.5
    train: int = 20
    test: int = 20
    steps: int = 1500
    dropped: int = 600
    tones: int = 20
    readouts: int = 64
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        if not self.dt > 0:
            raise ValueError(f"dt must be positive, got {self.dt}")
        if not 0 <= int(self.delay / self.dt) <= self.dropped < self.steps:
            raise ValueError(
                f"delay / dt <= dropped < steps must hold, got {self.delay / self.dt:g}, "
                f"{self.dropped}, {self.steps}"
            )


@dataclass(frozen=True)
class DelayScore:
    """Errors of one system in units of the target's deviation, by amplitude of the noise."""

    name: str
    seed: int
    amplitudes: tuple[float, ...]
    nrmse: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The error with noise of the amplitude nearest to 0.1 over that without any."""
        near = min(self.amplitudes, key=lambda amplitude: abs(amplitude - 0.1))
        at = dict(zip(self.amplitudes, self.nrmse, strict=True))
        return at[near] / at[0.0]


def delay_line(
    systems: Iterable[System],
    amplitudes: Sequence[float] = (0.0, 0.03, 0.1, 0.3),
    *,
    setup: DelayLine | None = None,
    seed: int = 0,
) -> list[DelayScore]:
    """Fit every system on the same clean signals and test it on the same noisy ones.

    The noise is `amplitude r cos(omega dt t)`, r uniform in [0, 1) per sequence, with omega the
    last spike of S4D-LegS.

    Raises:
        ValueError: amplitudes without 0.
    """
    if 0.0 not in amplitudes:
        raise ValueError(f"amplitudes must hold 0, got {list(amplitudes)}")
    setup = setup or DelayLine()
    rng = np.random.default_rng(seed)
    train = _signals(setup, setup.train, rng)
    test = _signals(setup, setup.test, rng)
    loudness = rng.random((setup.test, 1))
    scores = []
    for system in systems:
        n = len(system.b)
        readouts = np.random.default_rng((seed, n)).standard_normal((n, setup.readouts))
        C = _fit(setup, _states(system, setup, train), _target(setup, train), readouts)
        wave = loudness * np.cos(last_spike(n) * setup.dt * np.arange(setup.steps))
        want = _target(setup, test)
        errors = []
        for amplitude in amplitudes:
            read = _states(system, setup, test + amplitude * wave) @ C
            errors.append(float(np.sqrt(((read - want[:, None]) ** 2).mean()) / want.std()))
        scores.append(DelayScore(system.name, seed, tuple(amplitudes), tuple(errors)))
    return scores


def _signals(setup: DelayLine, count: int, rng: np.random.Generator) -> Real:
    """[count, steps] sums of sinusoids, of unit variance."""
    period = rng.uniform(50, 400, (count, setup.tones, 1))
    phase = rng.uniform(0, 2 * np.pi, (count, setup.tones, 1))
    height = rng.standard_normal((count, setup.tones, 1))
    u = (height * np.sin(2 * np.pi * np.arange(setup.steps) / period + phase)).sum(1)
    return u / u.std(-1, keepdims=True)


def _states(system: System, setup: DelayLine, u: Real) -> Real:
    """[rows, n] states after the dropped steps, by the exact response to a stepwise input."""
    a = torch.matrix_exp(torch.from_numpy(system.A * setup.dt)).numpy()
    b = np.linalg.solve(system.A, (a - np.eye(len(a))) @ system.b)
    x, kept = np.zeros((len(u), len(b))), []
    for t, u_t in enumerate(u.T):
        x = x @ a.T + u_t[:, None] * b
        if t >= setup.dropped:
            kept.append(x)
    return np.stack(kept, 1).reshape(-1, len(b))


def _target(setup: DelayLine, u: Real) -> Real:
    """[rows] the input some steps earlier."""
    delay = int(setup.delay / setup.dt)
    return u[:, setup.dropped - delay : setup.steps - delay].reshape(-1)


def _fit(setup: DelayLine, states: Real, target: Real, readouts: Real) -> Real:
    """[n, readouts] the least squares around each readout."""
    gram = states.T @ states + setup.ridge * len(states) * np.eye(states.shape[1])
    return readouts + np.linalg.solve(gram, states.T @ (target[:, None] - states @ readouts))


def delay_curves(scores: Iterable[DelayScore]) -> dict[str, list[Sequence[float]]]:
    """Errors by system: a line of them per seed."""
    found: dict[str, list[Sequence[float]]] = {}
    for score in scores:
        found.setdefault(score.name, []).append(score.nrmse)
    return found


def delay_table(scores: Sequence[DelayScore]) -> str:
    """The table in Markdown, a row per system: medians over seeds (lowest to highest)."""
    header = ["system", *(f"amplitude {a:g}" for a in scores[0].amplitudes), "0.1 over 0"]
    rows = []
    for name, errors in delay_curves(scores).items():
        ratios = [score.ratio for score in scores if score.name == name]
        rows.append([name, *map(over_seeds, zip(*errors, strict=True)), over_seeds(ratios)])
    return markdown_table(header, rows, numbers=range(1, len(header)))
