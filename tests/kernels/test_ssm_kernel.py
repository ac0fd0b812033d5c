# SPDX-License-Identifier: Apache-2.0
"""Kernels of diagonal models: published ones, sums of powers, memory, precision, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seqlib_kernels.ssm.convolution import convolve, fast_length
from seqlib_kernels.ssm.kernel import ssm_kernel
from seqlib_kernels.ssm.vandermonde import analyse, power, synthesise
from torch.utils._python_dispatch import TorchDispatchMode

GOLDEN = Path(__file__).parents[1] / "golden" / "ssm"
F64 = torch.float64
DIAGONAL = ["s4d_zoh_lin", "s4d_bilinear_inv", "s4d_zoh_legs_bidir", "s4d_zoh_lin_tied_rate"]
PERTURBED = ["ptd_n16_opt", "ptd_n32_opt", "ptd_n8_complex", "ptd_n16_rank1_theta0.2"]


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def pairs(x):
    return torch.view_as_real(torch.from_numpy(np.asarray(x, dtype=np.complex128)))


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def layer(S=1, H=4, M=3, directions=()):
    """A, B, C and dt of a decaying model."""
    A = draw(S, M, 2)
    A[..., 0] = -A[..., 0].abs() - 0.1
    return A, draw(S, M, 2, seed=1), draw(*directions, H, M, 2, seed=2), 0.01 + draw(H).abs() / 8


def direct(a, w, length):
    """Re(sum of w a^t), [N, H, length], from complex128 powers one by one."""
    a, w = torch.view_as_complex(a), torch.view_as_complex(w)
    terms = [(w * a**t).sum(-1).real for t in range(length)]
    return torch.stack(terms, -1) if terms else w.real[..., :0]


# Measured, worst of all files: 8e-16 of the largest value.
@pytest.mark.parametrize("name", DIAGONAL)
def test_published_kernels_of_s4d(name):
    g = load(name)
    lam = -np.exp(g["param_A_real"]) - 1j * g["param_A_imag"]
    raw = torch.from_numpy(g["param_inv_dt"][:, 0])
    dt = raw.exp() if g["dt_transform"] == "exp" else torch.nn.functional.softplus(raw)
    C = torch.from_numpy(g["param_C"])
    K = ssm_kernel(
        pairs(lam),
        torch.from_numpy(g["param_B"][0]),
        C if g["bidirectional"] else C[0],
        dt,
        g["K"].shape[-1],
        discretization=str(g["disc"]),
        rate=float(g["rate"]),
    )
    want = torch.from_numpy(g["K"])
    want = want if g["bidirectional"] else want[0]
    torch.testing.assert_close(K, want, rtol=1e-10, atol=1e-10 * want.abs().max().item())


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
@pytest.mark.parametrize("name", PERTURBED)
def test_published_kernels_of_perturbed_systems(name, rule):
    """All n modes, each for itself; a real and an imaginary part by two channels."""
    g = load(name)
    C = np.stack((g["residue"], -1j * g["residue"]))
    dt = torch.full((2,), float(g["dt"]), dtype=F64)
    n = len(g["lam"])
    K = ssm_kernel(
        pairs(g["lam"][None]), pairs(np.ones((1, n))), pairs(C), dt, len(g["K_zoh"]),
        discretization=rule, conj_sym=False,
    )  # fmt: skip
    want = torch.view_as_real(torch.from_numpy(g[f"K_{rule}"])).T
    torch.testing.assert_close(K, want, rtol=1e-10, atol=1e-10 * want.abs().max().item())


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_published_kernels_of_the_normal_part(rule):
    g = load("dplr_legs")
    shifted = g["A"] + np.outer(g["b"], g["b"]) / 2 + np.eye(len(g["b"])) / 2
    w, V = np.linalg.eigh(-1j * shifted)
    K = ssm_kernel(
        pairs((-0.5 + 1j * w)[None]), pairs((V.conj().T @ g["b"] / 2)[None]), pairs(g["c"] @ V),
        torch.from_numpy(g["dt"]), g["K_diag_zoh"].shape[1], discretization=rule, conj_sym=False,
    )  # fmt: skip
    want = torch.from_numpy(g[f"K_diag_{rule}"])
    torch.testing.assert_close(K, want, rtol=1e-10, atol=1e-10 * want.abs().max().item())


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 16, 17, 31, 64, 67, 256, 257])
def test_sums_of_powers(length):
    a, w, x = draw(3, 2, 2).tanh() * 0.7, draw(4, 3, 2, 2, seed=1), draw(4, 3, length, seed=2)
    k = synthesise(a, w, length, F64)
    torch.testing.assert_close(k, direct(a, w, length), rtol=1e-12, atol=1e-12)
    powers = torch.view_as_complex(a)[..., None] ** torch.arange(length)
    want = torch.einsum("nht,hmt->nhm", x.to(torch.complex128), powers)
    got = torch.view_as_complex(analyse(a, x))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.view_as_complex(power(a, length)), torch.view_as_complex(a) ** length
    )


def test_gradients_of_sums_of_powers():
    a, w, x = (y.requires_grad_() for y in (draw(2, 3, 2) / 2, draw(2, 2, 3, 2), draw(2, 2, 7)))
    torch.autograd.gradcheck(lambda a, w: synthesise(a, w, 7, F64), (a, w))
    torch.autograd.gradcheck(analyse, (a, x))
    torch.autograd.gradcheck(lambda a: power(a, 5), a)


def test_gradients_of_a_vanishing_multiplier():
    """a = 0, as bilinear with dt A = -2: a logarithm would be infinite."""
    a = torch.zeros(1, 2, 2, dtype=F64)
    w, x = draw(1, 1, 2, 2), draw(1, 1, 6)
    a, w, x = (y.requires_grad_() for y in (a, w, x))
    torch.autograd.gradcheck(lambda a, w: synthesise(a, w, 6, F64), (a, w))
    torch.autograd.gradcheck(analyse, (a, x))
    A, B, C, _ = layer()
    A = torch.tensor([-20.0, 0.0]).double().expand(1, 3, 2).clone().requires_grad_()
    dt = torch.full((4,), 0.1, dtype=F64, requires_grad=True)
    K = ssm_kernel(A, B, C, dt, 5, discretization="bilinear")
    assert torch.equal(K[:, 1:], torch.zeros_like(K[:, 1:]))
    grads = torch.autograd.grad(K.sum(), (A, dt))
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
@pytest.mark.parametrize("directions", [(), (2,)])
def test_gradients_of_parameters(rule, directions):
    parameters = [x.requires_grad_() for x in layer(S=2, directions=directions)]
    torch.autograd.gradcheck(
        lambda *p: ssm_kernel(*p, 9, discretization=rule, rate=0.5), parameters
    )


def test_copies_and_steps_per_mode():
    A, B, C, dt = layer(S=2, H=6)
    K = ssm_kernel(A, B, C, dt, 20)
    for h in range(6):
        s = h % 2
        one = ssm_kernel(A[s : s + 1], B[s : s + 1], C[h : h + 1], dt[h : h + 1], 20)
        assert torch.equal(one[0], K[h])
    assert torch.equal(K, ssm_kernel(A, B, C, dt[:, None].expand(6, 3), 20))


def test_complex_parameters_and_dtypes():
    A, B, C, dt = layer()
    K = ssm_kernel(A, B, C, dt, 7)
    assert torch.equal(K, ssm_kernel(*(torch.view_as_complex(x) for x in (A, B, C)), dt, 7))
    for dtypes, want in (
        ((torch.float32,) * 4, torch.float32),
        ((torch.bfloat16,) * 4, torch.float32),
        ((torch.float32, torch.float32, torch.float32, F64), F64),
    ):
        assert (
            ssm_kernel(*(x.to(d) for x, d in zip((A, B, C, dt), dtypes, strict=True)), 7).dtype
            == want
        )


def legs(M):
    """The M eigenvalues of the normal part of LegS with Im > 0."""
    root = np.sqrt(2 * np.arange(2 * M) + 1.0)
    skew = np.tril(-np.outer(root, root) / 2, -1)
    w = np.linalg.eigvalsh(-1j * (skew - skew.T))
    return -0.5 + 1j * w[w > 0]


def test_long_kernels_keep_their_phase():
    """LegS, n = 64, 16384 steps of 1e-4 to 1e-1: naive float32 powers lose 3e-5 (float64: 2e-15).

    Measured, worst channel: 6e-8 of its largest value.
    """
    A = pairs(legs(32)[None]).float()
    B, C = draw(1, 32, 2).float(), draw(8, 32, 2, seed=1).float()
    dt = torch.logspace(-4, -1, 8)
    K = ssm_kernel(A, B, C, dt, 16384)
    exact = ssm_kernel(*(x.double() for x in (A, B, C, dt)), 16384)
    lam, z = torch.view_as_complex(A).to(torch.complex128), None
    z = lam * dt.double()[:, None]
    w = 2 * torch.view_as_complex(C.double()) * torch.view_as_complex(B.double())
    w = w * (z.exp() - 1) / lam
    t = torch.tensor([0, 1, 777, 4096, 16383])
    want = (w[..., None] * (z[..., None] * t).exp()).sum(1).real
    size = exact.abs().amax(1, keepdim=True)
    assert ((exact[:, t] - want).abs() / size).max() < 1e-10
    assert ((K - exact).abs() / size).max() < 2e-7


class _Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that any operator makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def test_no_tensor_of_modes_by_length():
    H, M, length = 2, 64, 4096
    parameters = [x.requires_grad_() for x in layer(H=H, M=M)]
    largest = _Largest()
    with largest:
        K = ssm_kernel(*parameters, length)
        torch.autograd.grad(K.sum(), parameters)
    assert H * length <= largest.elements <= H * M * length / 4


def test_bad_arguments():
    A, B, C, dt = layer(S=2)
    with pytest.raises(ValueError, match="length must not be negative, got -1"):
        ssm_kernel(A, B, C, dt, -1)
    with pytest.raises(ValueError, match=r"A must have a number of copies S that divides H=3"):
        ssm_kernel(A, B, C[:3], dt[:3], 5)
    with pytest.raises(ValueError, match=r"B must have shape \(S, M, 2\) with M=3"):
        ssm_kernel(A, B[:, 1:], C, dt, 5)
    with pytest.raises(ValueError, match="dt must be positive and finite, got -1"):
        ssm_kernel(A, B, C, dt - dt - 1, 5)
    with pytest.raises(TypeError, match="A must have one of the dtypes"):
        ssm_kernel(A.int(), B, C, dt, 5)
    with pytest.raises(TypeError, match=r"C must have dtype torch.float64 as A, float32"):
        ssm_kernel(A, B, C.half(), dt, 5)
    with pytest.raises(TypeError, match="C must be a tensor, got list"):
        ssm_kernel(A, B, C.tolist(), dt, 5)


# The convolution.


def test_fast_lengths():
    for least in [*range(1, 200), 1023, 2047, 8191, 131071]:
        n = fast_length(least)
        assert n >= least
        assert n % 2 == 0
        assert n <= 1.21 * least + 1
        for p in (2, 3, 5):
            while n % p == 0:
                n //= p
        assert n == 1


@pytest.mark.parametrize("T", [0, 1, 2, 7, 20])
@pytest.mark.parametrize("directions", [1, 2])
def test_convolution(T, directions):
    """Each kernel value by hand, and every gradient."""
    u, K = draw(2, T, 3), draw(directions, 3, T, seed=1)
    want = torch.zeros(2, T, 3, dtype=F64)
    for t in range(T):
        for s in range(T):
            if s <= t:
                want[:, t] += K[0, :, t - s] * u[:, s]
            elif directions == 2:
                want[:, t] += K[1, :, s - t - 1] * u[:, s]
    torch.testing.assert_close(convolve(u, K), want)
    if T:
        torch.autograd.gradcheck(convolve, (u.requires_grad_(), K.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_convolution_of_halves(dtype):
    """Transforms know no 16 bits: they run in float32, at any length."""
    u, K = draw(2, 37, 3).to(dtype), draw(1, 3, 37).float()
    y = convolve(u, K)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, convolve(u.double(), K.double()).float(), rtol=0, atol=1e-5)


def test_operators_are_registered_properly():
    a, w, x = draw(3, 2, 2) / 2, draw(4, 3, 2, 2, seed=1), draw(4, 3, 9, seed=2)
    u, K = draw(2, 9, 3), draw(2, 3, 9)
    ops = torch.ops.seqlib
    torch.library.opcheck(ops.ssm_synthesise.default, (a, w, 9, torch.float32))
    torch.library.opcheck(ops.ssm_analyse.default, (a, x))
    torch.library.opcheck(ops.ssm_convolve_fwd.default, (u, K))
    torch.library.opcheck(ops.ssm_convolve_bwd.default, (u, u, K))
