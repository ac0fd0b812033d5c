# SPDX-License-Identifier: Apache-2.0
"""HiPPO beside its diagonal stand-ins: deviations, the delay line in noise, tables and plots."""

import numpy as np
import pytest

from seqlib.evaluation.ssm_delay_line import (
    DelayLine,
    DelayScore,
    delay_curves,
    delay_line,
    delay_table,
)
from seqlib.evaluation.ssm_deviation import (
    loss_of_diagonal,
    loss_table,
    standing,
    standing_table,
    trades,
)
from seqlib.evaluation.ssm_plots import plot_by_amplitude, plot_trades, plot_transfers
from seqlib.evaluation.ssm_systems import hippo_system, ptd_system, s4d_system, systems
from seqlib.layers.ssm_init import last_spike, ptd_init

SMALL = DelayLine(train=8, test=8, steps=1000, readouts=16)


@pytest.mark.parametrize("n", [8, 32])
def test_states_in_modes_are_those_of_the_dense_system(n):
    omega = np.array([0.0, 0.3, last_spike(n), 1e4])
    for system in systems(n, (0.1, 0.5)):
        shifted = 1j * omega[:, None, None] * np.eye(n) - system.A
        want = np.linalg.solve(shifted, np.broadcast_to(system.b, (4, n))[..., None])[..., 0]
        np.testing.assert_allclose(system.states(omega), want, rtol=1e-9, atol=1e-12)


def test_the_spike_is_where_theory_puts_it_and_as_high():
    """Published to 1e-3, the last three hold for every n up to O(1 / n^2)."""
    loss = loss_of_diagonal(64)
    assert loss.spike == pytest.approx(1303.27, rel=1e-3)
    assert loss.at == pytest.approx(loss.spike, rel=1e-4)
    assert loss.spike == pytest.approx(loss.theory, rel=1e-3)
    assert loss.own == pytest.approx(4 / np.pi**2, rel=1e-3)
    assert loss.worst == pytest.approx(2 / np.pi, rel=2e-3)
    assert loss.size == pytest.approx(1 / 64, rel=1e-4)
    assert "|  64 | 1303.27 |" in loss_table([loss])


def test_perturbed_systems_stand_nearer_to_hippo():
    s4d, optimised, rank_one = (standing(system) for system in systems(16)[1:])
    assert s4d.worst > 10 * max(optimised.worst, rank_one.worst)
    assert optimised.rel_norm < rank_one.rel_norm < s4d.rel_norm
    assert max(s4d.highest, optimised.highest, rank_one.highest) <= -0.5 + 1e-9
    assert standing_table([s4d, optimised]).count("\n") == 3
    with pytest.raises(ValueError, match="system must be a diagonalised one, got HiPPO"):
        standing(hippo_system(16))


def test_smaller_perturbations_have_worse_eigenvectors():
    varied = trades(8)
    for method in ("optimised", "rank one", "Gaussian"):
        group = sorted((t.rel_norm, t.kappa) for t in varied if t.method == method)
        kappas = [kappa for _, kappa in group]
        assert kappas == sorted(kappas, reverse=True)
        assert len(group) >= 4
    at = {t.method: t.kappa for t in varied if 0.03 < t.rel_norm < 0.12}
    assert at["optimised"] < at["Gaussian"]


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_at_the_spike_ruins_s4d_alone(seed):
    scores = {s.name: s for s in delay_line(systems(32, (0.1, 0.3)), setup=SMALL, seed=seed)}
    s4d = scores.pop("S4D-LegS")
    assert s4d.ratio > 1.5
    assert s4d.nrmse[0] < s4d.nrmse[1] < s4d.nrmse[2] < s4d.nrmse[3]
    for score in scores.values():
        assert score.ratio < 1.02
        assert score.nrmse[0] < 0.8 * s4d.nrmse[0]
    for theta in ("0.1", "0.3"):
        assert scores[f"PTD, rank one, θ = {theta}"].nrmse[0] < 0.4 * s4d.nrmse[0]


def test_signals_are_the_same_for_every_system_and_seed():
    a, b = delay_line([s4d_system(8), s4d_system(8)], (0.0, 0.1), setup=SMALL)
    assert a.nrmse == b.nrmse
    assert delay_line([s4d_system(8)], (0.0, 0.1), setup=SMALL, seed=1)[0].nrmse != a.nrmse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DelayLine(dt=0.0), "dt must be positive, got 0.0"),
        (
            lambda: DelayLine(delay=4.0),
            "delay / dt <= dropped < steps must hold, got 800, 600, 1500",
        ),
        (lambda: DelayLine(steps=600), "dropped < steps must hold, got 100, 600, 600"),
        (lambda: delay_line([], (0.1,)), "amplitudes must hold 0, got \\[0.1\\]"),
        (
            lambda: plot_by_amplitude({}, (0.0,), "x.png", ylabel=""),
            "curves must hold at least one",
        ),
        (lambda: plot_trades([], "x.png"), "trades must hold at least one perturbation"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_tables_tell_seeds_that_differ():
    scores = [
        DelayScore("S4D", seed, (0.0, 0.1), errors)
        for seed, errors in enumerate([(0.2, 0.6), (0.25, 0.5), (0.3, 0.9)])
    ]
    table = delay_table([*scores, DelayScore("PTD", 0, (0.0, 0.1), (0.1, 0.1))])
    assert "0.250 (0.200 to 0.300)" in table
    assert "3.000 (2.000 to 3.000)" in table
    assert "| PTD    |                  0.100 |" in table


def test_plots(tmp_path):
    scores = delay_line([s4d_system(8), ptd_system("PTD", ptd_init(8))], setup=SMALL)
    curves, amplitudes = delay_curves(scores), scores[0].amplitudes
    assert [len(errors) for seeds in curves.values() for errors in seeds] == [4, 4]
    for path in (
        plot_transfers(8, tmp_path / "transfer.png"),
        plot_trades(trades(8), tmp_path / "condition.png"),
        plot_by_amplitude(curves, amplitudes, tmp_path / "log.png", ylabel="y", logarithmic=True),
        plot_by_amplitude(curves, amplitudes, tmp_path / "plain.png", ylabel="y"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")
