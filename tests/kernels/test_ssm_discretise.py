# SPDX-License-Identifier: Apache-2.0
"""Discretisation and arithmetic on pairs: formulas, limits, gradients at the edges, bad values."""

import pytest
import torch
from seqlib_kernels.ssm.discretise import (
    DISCRETIZATIONS,
    check_discretization,
    check_rate,
    check_steps,
    discretise,
)
from seqlib_kernels.ssm.pairs import add, as_pairs, conj, inverse, mul

F64 = torch.float64
each_rule = pytest.mark.parametrize("rule", DISCRETIZATIONS)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def run(rule, A, step):
    """a and gain as complex numbers, of complex A and real steps."""
    pairs = discretise(torch.view_as_real(A), step, rule)
    return [torch.view_as_complex(x) for x in pairs]


def test_arithmetic_is_that_of_complex_numbers():
    x, y = draw(5, 3), draw(3, seed=1)
    p, q = as_pairs(x), as_pairs(y)
    for got, want in (
        (mul(p, q), x * y),
        (conj(p), x.conj()),
        (inverse(p), 1 / x),
        (add(p, 2.5), x + 2.5),
    ):
        torch.testing.assert_close(got, torch.view_as_real(want.resolve_conj()))
    assert as_pairs(p) is p
    assert torch.equal(as_pairs(x.conj()), conj(p))


@each_rule
def test_formulas(rule):
    A = draw(7, 5) - 1
    step = torch.rand(7, 1, dtype=F64, generator=torch.Generator().manual_seed(2)) + 0.3
    a, gain = run(rule, A, step)
    if rule == "zoh":
        want = (step * A).exp(), ((step * A).exp() - 1) / A
    else:
        want = (1 + step * A / 2) / (1 - step * A / 2), step / (1 - step * A / 2)
    torch.testing.assert_close((a, gain), want, rtol=1e-14, atol=1e-14)


def series(z):
    """(e^z - 1) / z for |z| < 2"""
    total, term = torch.zeros_like(z), torch.ones_like(z)
    for k in range(1, 40):
        total, term = total + term, term * z / (k + 1)
    return total


def test_hold_near_zero():
    """The quotient loses everything there; the series and its change to the quotient must not."""
    direction = torch.polar(
        torch.ones(16, dtype=F64), torch.linspace(-torch.pi, torch.pi, 17, dtype=F64)[:16]
    )
    size = torch.logspace(-20, 0, 81, dtype=F64)[:, None]
    A = (size * direction).requires_grad_()
    _, gain = run("zoh", A, torch.ones(1, dtype=F64))
    torch.testing.assert_close(gain, series(A), rtol=4e-16 * 8, atol=0)
    (got,) = torch.autograd.grad(gain.real.sum(), A, retain_graph=True)
    (want,) = torch.autograd.grad(series(A).real.sum(), A)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-15)


@each_rule
def test_limit_of_no_rate_and_no_step(rule):
    zero = torch.zeros(3, dtype=torch.complex128)
    a, gain = run(rule, zero, torch.tensor([0.0, 0.1, 100.0], dtype=F64))
    assert torch.equal(a, torch.ones_like(a))
    assert torch.equal(gain.real, torch.tensor([0.0, 0.1, 100.0], dtype=F64))
    a, gain = run(rule, draw(3), torch.zeros(3, dtype=F64))
    assert torch.equal(a, torch.ones_like(a))
    assert torch.equal(gain, torch.zeros_like(gain))


@each_rule
def test_gradients(rule):
    A = torch.view_as_real(draw(4, 3) - 0.5)
    A[0, 0], A[1, 1] = 0, 1e-9  # the limit, and beside it
    step = torch.tensor([0.5, 1e-3, 0.1, 2.0], dtype=F64)[:, None]
    torch.autograd.gradcheck(
        lambda A, step: discretise(A, step, rule), (A.requires_grad_(), step.requires_grad_())
    )


@each_rule
@pytest.mark.parametrize("step", [1e-6, 1e2])
@pytest.mark.parametrize("real", [-1e-4, -0.5, -100.0])
def test_gradients_at_extreme_steps_are_exact(rule, step, real):
    """By the step: A e^z and e^z, or their like; a difference of two large parts would not do."""
    A = torch.complex(torch.full((3,), real, dtype=F64), torch.tensor([0.0, 3.0, 3000.0]).double())
    dt = torch.full((3,), step, dtype=F64)
    z = dt * A
    if rule == "zoh":
        want = A * z.exp(), z.exp()
    else:
        want = A / (1 - z / 2) ** 2, 1 / (1 - z / 2) ** 2
    for part in (0, 1):
        for view in (torch.real, torch.imag):
            leaf = dt.clone().requires_grad_()
            (got,) = torch.autograd.grad(view(run(rule, A, leaf)[part]).sum(), leaf)
            assert got.isfinite().all()
            error = (got - view(want[part])).abs()
            # measured 1e-16 for zoh; the bilinear gain cancels where |z| is large, 3e5 here
            assert (error <= 1e-10 * want[part].abs() + 1e-300).all()


def test_unknown_rule():
    with pytest.raises(ValueError, match=r"discretization must be one of 'zoh', 'bilinear', got"):
        check_discretization("euler")


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_bad_steps(value):
    dt = torch.tensor([0.1, value])
    with pytest.raises(ValueError, match=f"dt must be positive and finite, got {value}"):
        check_steps(dt)
    check_steps(dt[:1])
    check_steps(dt.to("meta"))


def test_bad_rate():
    for value in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"rate must be positive and finite, got {value}"):
            check_rate(value)
    with pytest.raises(TypeError, match="rate must be a number, got str"):
        check_rate("1")


def test_operators_are_registered_properly():
    A, step = torch.view_as_real(draw(4, 3)), torch.rand(4, 3, dtype=F64)
    ops = torch.ops.seqlib
    torch.library.opcheck(ops.ssm_hold_fwd.default, (A, step))
    a, gain = ops.ssm_hold_fwd(A, step)
    torch.library.opcheck(ops.ssm_hold_bwd.default, (a, gain, A, step, a, gain))
