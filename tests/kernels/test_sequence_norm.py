# SPDX-License-Identifier: Apache-2.0
"""What sequence_norm adds to the checks of every family: torch's norms, large means, one step."""

import pytest
import torch
import torch.nn.functional as F
from seqlib_kernels._core import threads
from seqlib_kernels.fsmn.norm.op import sequence_norm
from seqlib_kernels.fsmn.norm.spec import SPEC
from seqlib_kernels.testing import Problem, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

REFERENCE = pytest.param("reference", id="reference")
CPU = pytest.param("cpu", id="cpu")
TRITON = pytest.param("triton", id="interpreted", marks=pytest.mark.interpret)
each_backend = pytest.mark.parametrize("backend", [REFERENCE, CPU, TRITON])
fast_backend = pytest.mark.parametrize("backend", [CPU, TRITON])
each_kind = pytest.mark.parametrize("per_channel", [False, True], ids=["sequence", "channel"])
F64 = torch.float64


def normal(*shape, dtype=F64, seed=0) -> torch.Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def of_torch(x, weight, bias, per_channel, eps) -> torch.Tensor:
    if per_channel:
        return F.instance_norm(x.mT, weight=weight, bias=bias, eps=eps).mT
    return F.group_norm(x.mT, 1, weight, bias, eps).mT


@each_backend
@each_kind
@pytest.mark.parametrize("eps", [1e-8, 1e-5])
def test_equals_norms_of_torch(per_channel, eps, backend):
    inputs = [normal(2, 37, 6), normal(6, seed=1), normal(6, seed=2)]
    cotangent = normal(2, 37, 6, seed=3)
    results = []
    for function in (
        lambda *x: sequence_norm(*x, per_channel=per_channel, eps=eps, backend=backend)[0],
        lambda *x: of_torch(*x, per_channel, eps),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, cotangent)])
    for got, want in zip(*results, strict=True):
        assert rel_err(got, want, time=None) < 1e-13


@fast_backend
@each_kind
def test_a_large_mean_costs_no_digits_of_the_variance(per_channel, backend):
    """Mean 1000 and deviation 1 in float32: E[x^2] - E[x]^2 is off by percents."""
    T = 2000 if backend == "cpu" else 200
    x = normal(1, T, 3, dtype=torch.float32) + 1000
    one, zero = torch.ones(3), torch.zeros(3)
    got, _ = sequence_norm(x, one, zero, per_channel=per_channel, eps=1e-8, backend=backend)
    want, _ = sequence_norm(
        x.double(), one, zero, per_channel=per_channel, eps=1e-8, backend="reference"
    )
    over = 1 if per_channel else (1, 2)
    naive = (x.square().mean(over) - x.mean(over).square()).clamp_min(0)
    exact = x.double().var(over, correction=0)
    assert ((naive - exact) / exact).abs().max() > 1e-2  # the trap is there
    # The mean itself is rounded, to 1000 * 2^-24 = 6e-5 of a deviation.
    assert (got - want).abs().max() < 7e-5
    assert rel_err(got.var(1, correction=0), want.var(1, correction=0), time=None) < 1e-6


@each_backend
def test_one_step_of_a_channel_is_its_offset(backend):
    x = normal(2, 1, 4).requires_grad_()
    weight, bias = normal(4, seed=1), normal(4, seed=2)
    y, state = sequence_norm(x, weight, bias, per_channel=True, eps=1e-5, backend=backend)
    assert state is None
    assert torch.equal(y, bias.expand_as(y))
    (dx,) = torch.autograd.grad(y, x, normal(2, 1, 4, seed=3))
    assert torch.equal(dx, torch.zeros_like(x))


@each_backend
@each_kind
def test_zeros_stay_finite(per_channel, backend):
    x = torch.zeros(2, 20, 3).requires_grad_()
    bias = torch.tensor([1.0, -2.0, 0.0])
    y, _ = sequence_norm(x, torch.ones(3), bias, per_channel=per_channel, eps=1e-8, backend=backend)
    assert torch.equal(y, bias.expand_as(y))
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.isfinite().all()


@each_kind
def test_threads_change_no_bit(per_channel, monkeypatch):
    """Blocks of channels and cuts between rows, with a last block that isn't full."""
    problem = Problem.draw(
        SPEC, SPEC.cases[per_channel], 1, 90, {"C": 300}, dtype=torch.float32, lengths=(40, 0, 50)
    )
    alone = solve(SPEC.op, problem, backend="cpu")
    monkeypatch.setattr(threads, "count", lambda *_: 4)
    shared = solve(SPEC.op, problem, backend="cpu")
    assert all(torch.equal(alone[n], shared[n]) for n in alone)


@pytest.mark.parametrize("eps", [0.0, -1e-5, float("nan")])
def test_bad_eps(eps):
    with pytest.raises(ValueError, match="eps must be positive, got"):
        sequence_norm(normal(1, 2, 3), normal(3), normal(3), eps=eps)
