# SPDX-License-Identifier: Apache-2.0
"""The correctness gate and the float64 truth behind it."""

import math

import pytest
import torch

from bench import gate, oracle
from bench.oracle import Result
from bench.workloads import Workload, load_spec, make_problem


def problem_of(op: str, case: str, T: int, **dims: int):
    workload = Workload(op=op, case=case, B=2, T=T, dims=dims, dtype="float64")
    return make_problem(workload, load_spec(op), torch.device("cpu"))


@pytest.mark.parametrize(
    ("op", "case", "dims"),
    [
        ("linear_scan", "real", {"D": 3}),
        ("linear_scan", "complex", {"D": 3}),
        ("delta_rule", "gated", {"H": 1, "HV": 2, "K": 4, "V": 3}),
        ("delta_rule", "product", {"H": 1, "HV": 2, "K": 4, "V": 3}),
        ("selective_scan", "mixer", {"D": 3, "N": 2}),
        ("ssd", "negative", {"H": 2, "G": 1, "P": 3, "N": 2}),
        ("ssd", "alpha", {"H": 2, "G": 1, "P": 3, "N": 2}),
    ],
)
def test_segments_change_nothing(op, case, dims, monkeypatch):
    """Measured: equal to the last bit for the scans, 6e-16 of the largest for the delta rule."""
    problem = problem_of(op, case, 11, **dims)
    leaves = {n: x.clone().requires_grad_() for n, x in problem.inputs.items()}
    output, _ = problem.spec.reference(**leaves, **problem.case.options)
    gradients = torch.autograd.grad(output, list(leaves.values()), problem.cotangent.to(output))
    monkeypatch.setattr(oracle, "SEGMENT", 4)
    got = oracle.solve(problem)
    torch.testing.assert_close(got.output, output.detach(), rtol=1e-13, atol=1e-13)
    for name, want in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(got.gradients[name], want, rtol=1e-13, atol=1e-13)


def test_the_truth_is_float64_of_the_rounded_inputs():
    workload = Workload(op="linear_scan", case="real", B=1, T=9, dims={"D": 2}, dtype="bfloat16")
    problem = make_problem(workload, load_spec("linear_scan"), torch.device("cpu"))
    got = oracle.solve(problem)
    assert problem.inputs["a"].dtype == torch.bfloat16
    assert got.output.dtype == torch.float64
    assert torch.equal(got.output[:, 0], problem.inputs["b"][:, 0].double())


def test_inputs_are_the_same_every_time_and_the_cotangent_is_no_constant():
    first, second = (problem_of("linear_scan", "real", 8, D=3) for _ in range(2))
    assert torch.equal(first.inputs["a"], second.inputs["a"])
    assert torch.equal(first.cotangent, second.cotangent)
    assert first.cotangent.unique().numel() == first.cotangent.numel()


def test_an_unknown_case_is_refused():
    with pytest.raises(ValueError, match=r"case must be one of .* got 'reel'"):
        problem_of("linear_scan", "reel", 8, D=3)


@pytest.fixture
def want():
    return Result(torch.randn(2, 50, 3).double(), {"a": torch.randn(2, 50, 3).double()})


def test_equal_results_pass(want):
    found = gate.errors(want, want)
    assert found == {"output": 0.0, "da": 0.0}
    assert gate.verdict(found, torch.float32) is None


def test_one_wrong_step_of_a_gradient_is_seen(want):
    wrong = want.gradients["a"].clone()
    wrong[:, 17] = 0
    found = gate.errors(Result(want.output, {"a": wrong}), want)
    assert found["output"] == 0
    assert found["da"] > 0.3
    assert "da is off by" in gate.verdict(found, torch.bfloat16)


def test_a_gradient_without_time_is_compared_as_a_whole():
    want = Result(torch.ones(1, 2, 4), {"A": torch.ones(4, 4), "D": torch.ones(4)})
    wrong = {"A": torch.ones(4, 4), "D": torch.ones(4)}
    wrong["A"][:, 2] = wrong["D"][2] = 0  # a column of A is no step
    found = gate.errors(Result(want.output, wrong), want, {"A", "D"})
    assert found == {"output": 0, "dA": 0.5, "dD": 0.5}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_never_passes(want, value):
    wrong = want.output.clone()
    wrong[0, 3, 1] = value
    assert gate.error(wrong, want.output) == math.inf


def test_another_shape_never_passes(want):
    assert gate.error(want.output[:, :-1], want.output) == math.inf
