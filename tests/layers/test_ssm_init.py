# SPDX-License-Identifier: Apache-2.0
"""Initial values of diagonal state-space layers: matrices, formulas, S5's blocks, step sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seqlib.layers.ssm_init import (
    dplr_kernel,
    hippo,
    inverse_exp,
    inverse_softplus,
    legs_eig,
    legs_modes,
    log_uniform,
    low_rank,
    normal,
    ptd_init,
    s4d,
    s4d_copies,
    s5_init,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "ssm"


def golden(name: str):
    return np.load(GOLDEN / f"{name}.npz")


def ascending(lam):
    return lam[np.lexsort((lam.real, lam.imag))]


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("name", ["legs", "legt", "fout"])
def test_hippo_matrices_are_the_published_ones(name, n):
    want = golden(f"hippo_inits_n{n}")
    A, B = hippo(name, n)
    np.testing.assert_allclose(A, want[f"A_{name}"], rtol=1e-14)
    np.testing.assert_allclose(B, want[f"B_{name}"], rtol=1e-14)
    np.testing.assert_allclose(low_rank(name, n), want[f"P_{name}"], rtol=1e-14)
    np.testing.assert_allclose(normal(name, n), want[f"normal_{name}"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 7, 32])
@pytest.mark.parametrize("name", ["legs", "legt", "fout"])
def test_the_normal_part_is_a_multiple_of_one_plus_a_skew_matrix(name, n):
    matrix = normal(name, n)
    shift = -0.5 if name == "legs" else 0.0
    assert matrix + matrix.T == pytest.approx(2 * shift * np.eye(n), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 64])
def test_eigenvectors_of_the_normal_part_are_unitary_pairs(n):
    lam, V, Vinv = legs_eig(n)
    scale = np.abs(lam).max()
    assert V @ Vinv == pytest.approx(np.eye(n), abs=1e-12)  # measured 1.0e-13 at n = 64
    assert (V * lam) @ Vinv == pytest.approx(normal("legs", n), abs=1e-13 * scale)
    upper = lam.imag > 0
    assert sorted(lam[upper].conj(), key=np.imag) == sorted(lam[lam.imag < 0], key=np.imag)
    assert upper.sum() == n // 2


@pytest.mark.parametrize("n", [16, 64])
def test_s4d_legs_has_the_published_eigenvalues_and_inputs(n):
    want, (lam, B) = golden(f"hippo_inits_n{n}"), s4d("legs", n)
    order = np.argsort(-lam.imag)  # the published ones are the lower half
    np.testing.assert_allclose(lam[order].conj(), want["nplr_legs_lambda"], rtol=1e-12)
    np.testing.assert_allclose(B[order], want["nplr_legs_absB"], rtol=1e-12)
    assert 2 * (B.real**2).sum() == pytest.approx(n**2, rel=1e-13)


@pytest.mark.parametrize("n", [4, 16, 64])
def test_s4d_legs_by_closed_form(n):
    want, (lam, B) = golden("s4d_transfer_closed_form"), s4d("legs", n)
    both = np.concatenate((lam.imag, -lam.imag))
    order = np.argsort(both)
    np.testing.assert_allclose(both[order], want[f"n{n}_imag_eigs"], rtol=1e-12)
    np.testing.assert_allclose(
        np.tile(B.real**2, 2)[order], want[f"n{n}_absB_sq"], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("init", ["lin", "inv", "inv2", "quad", "real"])
def test_s4d_formulas_are_the_published_ones(init, n):
    want, (lam, B) = golden(f"hippo_inits_n{n}"), s4d(init, n)
    np.testing.assert_allclose(ascending(lam.conj()), ascending(want[f"s4d_{init}_A"]), rtol=1e-14)
    assert (B == 1).all()
    assert lam.dtype == B.dtype == np.complex128


def test_s4d_of_the_fourier_matrix_has_its_spectrum():
    """Two states never turn: one mode of them, slightly damped, has half their input."""
    lam, B = s4d("fout", 16)
    w, V = np.linalg.eigh(-1j * normal("fout", 16))
    inputs = np.abs(V.conj().T @ hippo("fout", 16)[1])
    np.testing.assert_allclose(lam.imag[1:], w[9:], rtol=1e-12)
    np.testing.assert_allclose(B[1:].real, inputs[9:], rtol=1e-12)
    assert lam.imag[0] == 0
    assert 2 * B[0].real ** 2 == pytest.approx((inputs[7:9] ** 2).sum())
    assert (lam.real == -1e-4).all()


@pytest.mark.parametrize(
    ("init", "parts"), [("diag", ("inv", "lin")), ("hippo", ("legs", "fout")), ("quad", ("quad",))]
)
def test_copies_are_divided_among_the_parts_of_a_combined_init(init, parts):
    lam, B = s4d_copies(init, 8, 4)
    assert lam.shape == B.shape == (4, 4)
    for k, part in enumerate(parts * (2 // len(parts))):
        one = s4d(part, 8)
        for copy in (2 * k, 2 * k + 1):
            assert (lam[copy] == one[0]).all()
            assert (B[copy] == one[1]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hippo("lagt", 8), "name must be one of legs, legt, fout, got 'lagt'"),
        (lambda: hippo("legs", 0), "n must be an integer of at least 1, got 0"),
        (lambda: normal("legt", -2), "n must be an integer of at least 1, got -2"),
        (lambda: s4d("linear", 8), "init must be one of legs, .*hippo, got 'linear'"),
        (lambda: s4d("lin", 7), "n must be even to be kept as conjugate pairs, got 7"),
        (lambda: s4d("lin", 0), "n must be an integer of at least 1, got 0"),
        (lambda: s4d("diag", 8), "init 'diag' needs copies"),
        (lambda: s4d_copies("diag", 8, 3), "copies must be a multiple of 2 for 'diag', got 3"),
        (lambda: s4d_copies("lin", 8, 0), "copies must be a multiple of 1 for 'lin', got 0"),
        (lambda: s5_init(8, 2, 3, init="hippo"), "init must be one of .*, got 'hippo'"),
        (lambda: s5_init(8, 2, 3, b_init="x"), "b_init must be one of .*, got 'x'"),
        (lambda: s5_init(8, 2, 3, c_init="x"), "c_init must be one of .*, got 'x'"),
        (lambda: s5_init(8, 3, 3), "blocks must divide state_size=8, got 3"),
        (lambda: s5_init(8, 0, 3), "blocks must divide state_size=8, got 0"),
        (lambda: s5_init(8, 2, 0), "hidden_size must be at least 1, got 0"),
        (lambda: s5_init(6, 2, 3), "state_size / blocks must be even with conj_sym, got 3"),
        (lambda: log_uniform(3, low=0.1, high=0.01), "need 0 < low <= high, got low=0.1"),
        (lambda: log_uniform(3, low=0.0), "need 0 < low <= high, got low=0.0"),
        (lambda: log_uniform(3, high=float("inf")), "need 0 < low <= high"),
        (lambda: log_uniform(3, low=float("nan")), "need 0 < low <= high"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_kernel_of_diagonal_plus_low_rank():
    want = golden("dplr_legs")
    for row, (c, dt) in enumerate(zip(want["c"], want["dt"], strict=True)):
        K = dplr_kernel(c, float(dt), want["K_dplr"].shape[1])
        for name in ("K_dplr", "K_dense_bilinear"):
            np.testing.assert_allclose(K, want[name][row], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("length", [1, 2, 33])
def test_the_kernel_is_finite_at_every_length(length):
    A, b = hippo("legs", 6)
    c, eye, dt = np.arange(6.0), np.eye(6), 0.05
    left = np.linalg.inv(eye - dt / 2 * A)
    x, K = left @ b * dt, []
    for _ in range(length):
        K.append(c @ x)
        x = left @ (eye + dt / 2 * A) @ x
    np.testing.assert_allclose(dplr_kernel(c, dt, length), K, rtol=1e-10, atol=1e-13)


def test_s5_blocks_are_the_published_ones():
    want = golden("s5_init_n16_j4")
    got = s5_init(64, 4, 3, init="legs", b_init="hippo")
    np.testing.assert_allclose(
        ascending(got["lam"].conj()), ascending(want["Lambda_full"]), rtol=1e-12
    )
    assert got["lam"].shape == (32,)
    first = slice(0, 8)  # of the first block: falling |Im|, so the other end of the lower half
    np.testing.assert_allclose(np.abs(got["B"][first, 0]), want["absVB"][:8], rtol=1e-12)
    assert (got["B"] == got["B"][:, :1]).all()


@pytest.mark.parametrize("init", ["legs", "ptd", "ptd_rank1"])
def test_kept_states_of_s5_are_half_of_all(init):
    """Pairs count twice and the rest once: real readouts find the same output in both."""
    n, blocks = 32, 2
    some = s5_init(n * blocks, blocks, 5, init=init, generator=torch.Generator().manual_seed(1))
    every = s5_init(
        n * blocks, blocks, 5, init=init, conj_sym=False, generator=torch.Generator().manual_seed(1)
    )
    modes = (
        legs_modes(n)
        if init == "legs"
        else ptd_init(n, {"ptd": "optimise"}.get(init, "rank1")).modes()
    )
    assert len(some["lam"]) == blocks * len(modes.lam)
    assert len(every["lam"]) == blocks * n
    upper = every["lam"].imag >= 0
    np.testing.assert_array_equal(some["lam"], every["lam"][upper])
    np.testing.assert_allclose(some["B"], every["B"][upper], rtol=1e-12, atol=1e-14)
    half = np.where(some["lam"].imag > 0, 1.0, 0.5)
    np.testing.assert_allclose(some["C"], half * every["C"][:, upper], rtol=1e-12)
    # B is real before the change of basis, so conjugate states have conjugate inputs
    lower = every["lam"].imag < 0
    pairs = some["lam"].imag > 0
    np.testing.assert_allclose(
        np.sort_complex(every["B"][lower, 0]),
        np.sort_complex(some["B"][pairs, 0].conj()),
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    ("c_init", "variance"),
    [("lecun_normal", 2 / (64 * 256)), ("trunc_standard_normal", 2 / 256), ("complex_normal", 1.0)],
)
def test_s5_random_maps_have_their_variances(c_init, variance):
    """The modes of LegS are unitary, so a map has the same variance in every basis."""
    generator = torch.Generator().manual_seed(0)
    got = s5_init(256, 4, 64, init="legs", c_init=c_init, bidirectional=True, generator=generator)
    assert got["C"].shape == (64, 256)
    assert got["B"].shape == (128, 64)
    assert got["D"].shape == (64,)
    # measured: within 1.5 %
    assert (np.abs(got["C"]) ** 2).mean() == pytest.approx(variance, rel=0.04)
    assert (np.abs(got["B"]) ** 2).mean() == pytest.approx(1 / 256, rel=0.04)
    assert not np.allclose(got["C"][:, :128], got["C"][:, 128:])


def test_s5_draws_from_the_generator_it_is_given():
    first, again, other = (
        s5_init(8, 2, 3, init="legs", generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    )
    for name in ("B", "C", "D"):
        assert (first[name] == again[name]).all()
        assert (first[name] != other[name]).any()


def test_initial_values_have_memory_where_models_have_none():
    with torch.device("meta"):
        got = s5_init(16, 2, 3, init="ptd_ginibre", ratio=0.01)
        dt = log_uniform(5)
    assert all(np.isfinite(value).all() for value in got.values())
    assert dt.device.type == "cpu"


def test_step_sizes_are_log_uniform_and_come_back_through_their_transforms():
    dt = log_uniform(4000, 2, low=1e-4, high=1.0, generator=torch.Generator().manual_seed(0))
    assert dt.dtype == torch.float64
    assert dt.min() >= 1e-4
    assert dt.max() <= 1.0
    share = (dt < 1e-2).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(inverse_exp(dt).exp(), dt)
    softplus = torch.nn.functional.softplus(inverse_softplus(dt))
    torch.testing.assert_close(softplus, dt, rtol=1e-12, atol=0)


def test_one_step_size():
    assert log_uniform(3, low=0.01, high=0.01).tolist() == pytest.approx([0.01] * 3)
