# SPDX-License-Identifier: Apache-2.0
"""Perturb-then-diagonalise: gauge-free goldens, bounds, what is refused; what S4D loses."""

import logging

import numpy as np
import pytest
import torch

from seqlib.layers.ssm_init import (
    frequencies,
    hippo,
    last_spike,
    legs_eig,
    legs_states,
    modal_states,
    normal,
    optimise,
    perturbed,
    phi,
    ptd_init,
    s4d,
    transfer_diagonal,
    transfer_hippo,
    transfer_modes,
    worst_deviation,
)
from seqlib.layers.ssm_init.optimise import objective

from .test_ssm_init import ascending, golden

CASES = ["ptd_n16_opt", "ptd_n32_opt", "ptd_n8_complex", "ptd_n16_rank1_theta0.2"]


def deviation(ptd):
    b = hippo("legs", len(ptd.lam))[1]
    return worst_deviation(ptd.lam, ptd.V, ptd.Vinv @ b, frequencies(ptd.lam))


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_depend_on_the_choice_of_eigenvectors(case):
    want = golden(case)
    ptd, c = perturbed(want["E"]), want["c"]
    residue = (c @ ptd.V) * (ptd.Vinv @ want["b"])
    order = np.lexsort((ptd.lam.real, ptd.lam.imag))
    scale = np.abs(want["residue"]).max()
    np.testing.assert_allclose(ptd.lam[order], ascending(want["lam"]), rtol=1e-10)
    np.testing.assert_allclose(residue[order], want["residue"], rtol=1e-9, atol=1e-10 * scale)
    assert ptd.kappa == pytest.approx(want["kappa"], rel=1e-10)
    assert ptd.rel_norm == pytest.approx(want["norm2_E"] / want["norm2_A"], rel=1e-12)
    assert ptd.max_re_before_fix == pytest.approx(want["lam"].real.max(), rel=1e-10)
    G = transfer_modes(ptd.lam, residue, want["omega"])
    np.testing.assert_allclose(G, want["G_ptd"], rtol=0, atol=1e-10 * np.abs(G).max())


@pytest.mark.parametrize("case", CASES)
def test_kept_modes_have_the_kernel_of_all(case):
    want = golden(case)
    modes, dt = perturbed(want["E"]).modes(), float(want["dt"])
    t = np.arange(len(want["K_zoh"]))
    gain = modes.readout(want["c"]) * modes.B * np.expm1(dt * modes.lam) / modes.lam
    K = 2 * (gain[:, None] * np.exp(dt * modes.lam[:, None] * t)).sum(0).real
    scale = np.abs(K).max()
    np.testing.assert_allclose(K, want["K_zoh"].real, rtol=0, atol=1e-10 * scale)
    a = (1 + dt / 2 * modes.lam) / (1 - dt / 2 * modes.lam)
    gain = modes.readout(want["c"]) * modes.B * dt / (1 - dt / 2 * modes.lam)
    K = 2 * (gain[:, None] * a[:, None] ** t).sum(0).real
    np.testing.assert_allclose(K, want["K_bilinear"].real, rtol=0, atol=1e-10 * scale)


def test_modes_of_a_real_and_of_a_complex_perturbation():
    modes = ptd_init(32).modes()
    assert modes.lam.shape == (18,)  # 14 pairs and 4 real
    assert modes.weight.tolist() == [1.0] * 14 + [0.5] * 4
    assert (np.diff(modes.lam.imag) <= 0).all()
    assert (modes.lam.imag >= 0).all()
    assert ptd_init(32).modes(paired=False).lam.shape == (32,)
    modes = perturbed(golden("ptd_n8_complex")["E"]).modes()
    assert modes.weight.tolist() == [0.5] * 8


@pytest.mark.parametrize("n", [1, 3, 8])
def test_eigendecompositions_hold_for_every_size(n):
    ptd = ptd_init(n, "rank1")
    scale = n**2
    A = hippo("legs", n)[0] + ptd.E
    assert (ptd.V * ptd.lam) @ ptd.Vinv == pytest.approx(A, abs=1e-13 * scale)
    assert np.linalg.norm(ptd.V, axis=0) == pytest.approx(np.ones(n))
    assert len(ptd.modes().lam) == (n + 1) // 2


@pytest.mark.parametrize(
    ("n", "kappa", "ratio"), [(8, 5.70, 0.0502), (16, 6.27, 0.0465), (24, 6.70, 0.0435)]
)
@pytest.mark.parametrize("seed", [0, 5])
def test_optimised_perturbations_found_anew(n, kappa, ratio, seed):
    ptd = perturbed(optimise(n, 100.0, seed))
    assert ptd.kappa == pytest.approx(kappa, rel=0.03)
    assert ptd.rel_norm == pytest.approx(ratio, rel=0.03)
    assert ptd.max_re_before_fix < -0.4
    assert deviation(ptd) < 0.1


@pytest.mark.parametrize(
    ("n", "kappa", "ratio"),
    [
        (8, 5.70, 0.0502),
        (16, 6.27, 0.0465),
        (32, 7.0, 0.0412),
        (64, 7.94, 0.0356),
        (128, 9.12, 0.0301),
    ],
)
def test_optimised_perturbations_of_the_package(n, kappa, ratio):
    ptd = ptd_init(n)
    assert ptd.kappa == pytest.approx(kappa, rel=0.03)
    assert ptd.rel_norm == pytest.approx(ratio, rel=0.03)
    assert ptd.max_re_before_fix < 0
    assert deviation(ptd) < 0.1
    assert ptd.E.dtype == np.float64


def test_two_states_need_no_perturbation():
    ptd = ptd_init(2)
    assert (ptd.E == 0).all()
    assert ptd.lam == pytest.approx([-2, -1])
    assert ptd.kappa == pytest.approx(3.73, rel=1e-3)
    assert ptd_init(2, seed=1).E.any()
    assert ptd_init(1).lam == pytest.approx([-1])


def test_gamma_trades_the_condition_for_the_size():
    few, many = (ptd_init(16, gamma=gamma) for gamma in (30.0, 300.0))
    assert few.kappa == pytest.approx(4.53, rel=0.03)
    assert few.rel_norm == pytest.approx(0.071, rel=0.03)
    assert many.kappa == pytest.approx(8.80, rel=0.03)
    assert many.rel_norm == pytest.approx(0.030, rel=0.03)


def test_the_objective_is_its_formula_and_has_a_gradient():
    A, b = (torch.from_numpy(x) for x in hippo("legs", 6))
    E = (0.3 * torch.outer(b, b)).requires_grad_()
    lam, V = np.linalg.eig((A + E).detach().numpy())
    norms = np.linalg.norm(V) * np.linalg.norm(np.linalg.inv(V))
    size = np.linalg.norm(E.detach()) / np.linalg.norm(A)
    want = np.log(norms / 6) + 7 * size**2 + (np.maximum(lam.real + 0.5, 0) ** 2).sum()
    assert objective(A, E, 7.0).item() == pytest.approx(want, rel=1e-12)
    assert torch.autograd.gradcheck(lambda E: objective(A, E, 7.0), (E,))


def test_optimised_perturbations_are_remembered_and_kept_from_harm(monkeypatch):
    first = optimise(8, 100.0, 11)
    assert optimise(8, 100.0, 11) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1.0
    optimise.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        assert (optimise(8, 100.0, 11) == first).all()


@pytest.mark.parametrize("n", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("theta", [0.1, 0.2, 0.3, 0.5])
def test_rank_one_perturbations_keep_their_bounds(n, theta):
    ptd = ptd_init(n, "rank1", theta=theta)
    assert ptd.max_re_before_fix <= -0.5
    assert (ptd.lam.imag != 0).all()
    assert ptd.kappa <= (2 - theta) / theta
    # eigenvalues are the roots of phi = -(2 - theta) / theta
    s = ptd.lam[::7]
    j = np.arange(1, n)
    value = s / (s + n) * ((s[:, None] - j) / (s[:, None] + j)).prod(-1)
    np.testing.assert_allclose(value, -(2 - theta) / theta, rtol=1e-8)
    omega = frequencies(ptd.lam)
    b = hippo("legs", n)[1]
    got = modal_states(ptd.lam, ptd.V, ptd.Vinv @ b, omega)
    want = legs_states(n, omega)
    factor = 2 / (2 - theta * (1 - phi(n, omega)))
    norm = np.linalg.norm(want, axis=-1)
    # measured 1e-13 at n = 64 and 2e-12 at 256
    assert (np.linalg.norm(got - factor[:, None] * want, axis=-1) / norm).max() < 1e-10
    error = (np.linalg.norm(got - want, axis=-1) / norm).max()
    assert error <= theta / (1 - theta) * (1 + 1e-9)
    scaled = (np.linalg.norm((1 - theta / 2) * got - want, axis=-1) / norm).max()
    assert scaled <= theta / (2 * (1 - theta)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("n", "worst"), [(8, 0.0192), (16, 0.0095), (32, 0.0048), (64, 0.0024), (128, 0.0012)]
)
def test_the_worst_deviation_of_rank_one(n, worst):
    assert deviation(ptd_init(n, "rank1")) == pytest.approx(worst, rel=0.01)


@pytest.mark.parametrize(("n", "bounds"), [(8, 13.5), (16, 15.9), (64, 18.2), (256, 18.8)])
def test_the_condition_of_rank_one_comes_near_its_bound(n, bounds):
    assert ptd_init(n, "rank1", theta=0.1).kappa == pytest.approx(bounds, rel=0.005)


@pytest.mark.parametrize("n", [8, 16])
def test_rank_one_at_its_end_has_the_eigenvalues_of_s4d(n):
    ptd = ptd_init(n, "rank1", theta=1.0)
    np.testing.assert_allclose(ascending(ptd.modes().lam), ascending(s4d("legs", n)[0]), rtol=1e-12)
    assert ptd.kappa == pytest.approx(1.0)


def test_ginibre_is_worse_and_unstable():
    ptd = ptd_init(16, "ginibre", ratio=0.01)
    assert ptd.rel_norm == pytest.approx(0.01)
    assert ptd.kappa > 20
    assert (ptd_init(16, "ginibre", ratio=0.01, seed=1).E != ptd.E).any()
    with pytest.raises(
        ValueError, match="A \\+ E must be stable, got an eigenvalue with real part"
    ):
        ptd_init(64, "ginibre", ratio=0.1)


def test_unstable_eigenvalues_are_reflected_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        ptd = ptd_init(64, "ginibre", ratio=0.1, allow_unstable=True)
    assert "reflected" in caplog.text
    assert ptd.max_re_before_fix > 1
    assert (ptd.lam.real <= -1e-4).all()
    assert ptd.lam.real.min() < -ptd.max_re_before_fix + 1e-9


def test_badly_conditioned_eigenvectors_are_mentioned_and_then_refused(caplog):
    with caplog.at_level(logging.WARNING):
        kappa = perturbed(np.zeros((8, 8)), allow_unstable=True).kappa
    assert kappa > 86
    assert (kappa > 1e3) == ("condition" in caplog.text)
    with caplog.at_level(logging.WARNING):
        assert 1e3 < perturbed(np.zeros((9, 9))).kappa < 1e6
    assert "eigenvectors of A + E have condition" in caplog.text
    with pytest.raises(ValueError, match="must have a condition <= 1e6, got"):
        perturbed(np.zeros((16, 16)))


def test_perturbations_from_files(tmp_path):
    want = golden("ptd_n8_complex")["E"]
    np.save(tmp_path / "plain.npy", want)
    np.savez(tmp_path / "named.npz", E=want, other=1)
    np.savez(tmp_path / "nameless.npz", other=want)
    for name in ("plain.npy", "named.npz"):
        ptd = ptd_init(8, "file", file=tmp_path / name)
        assert (want == ptd.E).all()
    with pytest.raises(ValueError, match="file must hold an array E, got \\['other'\\]"):
        ptd_init(8, "file", file=tmp_path / "nameless.npz")
    with pytest.raises(
        ValueError, match="file must hold a square matrix \\(16, 16\\), got \\(8, 8\\)"
    ):
        ptd_init(16, "file", file=tmp_path / "plain.npy")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ptd_init(0), "n must be an integer of at least 1, got 0"),
        (lambda: ptd_init(8, "adam"), "method must be one of optimise, .*, got 'adam'"),
        (lambda: ptd_init(8, "rank1", theta=0.0), "theta must be in \\(0, 1\\], got 0.0"),
        (lambda: ptd_init(8, "rank1", theta=1.5), "theta must be in \\(0, 1\\], got 1.5"),
        (lambda: ptd_init(8, "rank1", theta=float("nan")), "theta must be in \\(0, 1\\], got nan"),
        (lambda: ptd_init(8, gamma=-1.0), "gamma must be positive and finite, got -1.0"),
        (lambda: ptd_init(8, "ginibre", ratio=0.0), "ratio must be positive and finite, got 0.0"),
        (lambda: ptd_init(8, "file"), "file must name an .npy or .npz for method 'file', got None"),
        (lambda: perturbed(np.ones((3, 4))), "E must be a square matrix, got shape \\(3, 4\\)"),
        (lambda: perturbed(np.ones(4)), "E must be a square matrix, got shape \\(4,\\)"),
        (lambda: perturbed(np.full((2, 2), np.inf)), "E must be finite, got 4 entries"),
        (lambda: perturbed([[np.nan, 0], [0, 0]]), "E must be finite, got 1 entries"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("n", [4, 16, 64])
def test_transfer_functions_by_closed_form(n):
    want = golden("s4d_transfer_closed_form")
    omega = want[f"n{n}_omega"]
    for got, name in (
        (phi(n, omega), "phi"),
        (n**2 * transfer_hippo(n, omega), "H_cb"),
        (n**2 * transfer_diagonal(n, omega), "Gdiag_cb"),
    ):
        np.testing.assert_allclose(got, want[f"n{n}_{name}"], rtol=1e-9)


def test_hippo_is_s4d_times_one_plus_phi_for_every_readout():
    n, c = 16, np.random.default_rng(0).standard_normal(16)
    omega = np.geomspace(1e-2, 1e4, 50)
    A, b = hippo("legs", n)
    lam, V, Vinv = legs_eig(n)
    full = np.array([c @ np.linalg.solve(1j * w * np.eye(n) - A, b) for w in omega])
    diagonal = modal_states(lam, V, Vinv @ b / 2, omega) @ c
    np.testing.assert_allclose(full, diagonal * (1 + phi(n, omega)), rtol=1e-9)
    np.testing.assert_allclose(full, legs_states(n, omega) @ c, rtol=1e-9)


@pytest.mark.parametrize(
    ("n", "spike", "own", "worst"),
    [
        (8, 19.857, 0.38565, 0.5979),
        (16, 80.966, 0.40015, 0.6265),
        (32, 325.426, 0.40399, 0.6341),
        (64, 1303.27, 0.40496, 0.6360),
        (128, 5214.67, 0.40520, 0.6365),
    ],
)
def test_what_diagonalising_loses(n, spike, own, worst):
    lam, V, Vinv = legs_eig(n)
    omega, b = frequencies(lam), hippo("legs", n)[1]
    assert last_spike(n) == pytest.approx(spike, rel=1e-3)
    gap = np.abs(transfer_diagonal(n, omega) - transfer_hippo(n, omega))
    assert gap.max() == pytest.approx(own, rel=1e-3)
    assert omega[gap.argmax()] == pytest.approx(spike, rel=1e-2)
    assert worst_deviation(lam, V, Vinv @ b / 2, omega) == pytest.approx(worst, rel=1e-3)
    size = np.linalg.norm(legs_states(n, omega), axis=-1) / n
    assert size.max() == pytest.approx(1 / n, rel=1e-3)


def test_the_resolvent_of_hippo_is_bounded():
    """|dG| <= |c| |b| 4 eps / (1 - 2 eps) for perturbations of norm eps < 1/2 rests on this."""
    for n in (8, 32):
        A, omega = hippo("legs", n)[0], np.linspace(-n, n, 201)
        norms = [np.linalg.norm(np.linalg.inv(1j * w * np.eye(n) - A), 2) for w in omega]
        assert 1.6 < max(norms) < 2
    assert (np.linalg.eigvalsh(normal("legs", 8) + normal("legs", 8).T) <= -1 + 1e-12).all()
