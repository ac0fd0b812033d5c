# SPDX-License-Identifier: Apache-2.0
"""What mimo_ssm adds to the checks of every family: golden layers, directions, rates, bad input."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from seqlib_kernels._core import threads
from seqlib_kernels.ssm.mimo import variable
from seqlib_kernels.ssm.mimo.arguments import one_step
from seqlib_kernels.ssm.mimo.op import mimo_ssm
from seqlib_kernels.ssm.mimo.spec import SPEC
from seqlib_kernels.ssm.mimo.step import mimo_ssm_step
from seqlib_kernels.ssm.pairs import mul
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("fenced_memory")

GOLDEN = Path(__file__).parents[1] / "golden" / "ssm"
REFERENCE = pytest.param("reference", id="reference")
CPU = pytest.param("cpu", id="cpu")
TRITON = pytest.param("triton", id="interpreted", marks=pytest.mark.interpret)
each_backend = pytest.mark.parametrize("backend", [REFERENCE, CPU, TRITON])
fast_backend = pytest.mark.parametrize("backend", [CPU, TRITON])
CASES = {case.name: case for case in SPEC.cases}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
F64 = torch.float64


# Golden layers.

FILES = ["s5_zoh_conj_halfglu1", "s5_bilinear_noconj_gelu_postnorm", "s5_zoh_bidir_fullglu"]


def load(name):
    """The arrays of a file as float64 tensors, and its strings and flags."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {n: file[n] for n in file.files}
    flags = {n: x.item() for n, x in arrays.items() if x.ndim == 0}
    return {n: torch.from_numpy(x) for n, x in arrays.items() if n not in flags}, flags


def arguments(p, flags):
    """The op's arguments of a golden layer's parameters."""
    assert flags["clip_eigs"] is False
    C = p["seq__C"] if "seq__C" in p else torch.cat((p["seq__C1"], p["seq__C2"]), 1)
    A = torch.stack((p["seq__Lambda_re"], p["seq__Lambda_im"]), -1)
    dt = p["seq__log_step"][:, 0].exp()
    options = {n: flags[n] for n in ("discretization", "conj_sym", "bidirectional")}
    return {"A": A, "B": p["seq__B"], "C": C, "dt": dt, "D": p["seq__D"]}, {
        **options,
        "rate": flags["step_rescale"],
    }


def layer(p, u, flags, backend):
    """Norm, model, activation and residual: `y_layer` of the golden files, for u [1, L, H]."""

    def norm(x):
        return functional.layer_norm(x, x.shape[-1:], p["norm__scale"], p["norm__bias"], 1e-6)

    def dense(name, x):
        return x @ p[f"{name}__kernel"] + p[f"{name}__bias"]

    parameters, options = arguments(p, flags)
    x = norm(u) if flags["prenorm"] else u
    x, _ = mimo_ssm(x, **parameters, **options, backend=backend)
    x = functional.gelu(x, approximate="tanh")
    if flags["activation"] == "half_glu1":
        x = x * dense("out2", x).sigmoid()
    elif flags["activation"] == "full_glu":
        x = dense("out1", x) * dense("out2", x).sigmoid()
    x = u + x
    return x if flags["prenorm"] else norm(x)


# Measured, worst of all files: 2.0e-15.
@pytest.mark.parametrize("name", FILES)
@each_backend
def test_golden_outputs(name, backend):
    arrays, flags = load(name)
    p = {n.removeprefix("param__"): x for n, x in arrays.items() if n.startswith("param__")}
    parameters, options = arguments(p, flags)
    y, _ = mimo_ssm(arrays["u"][None], **parameters, **options, backend=backend)
    assert rel_err(y[0], arrays["y_ssm"], time=None) <= 1e-10


@pytest.mark.parametrize("name", FILES)
def test_golden_discretisation(name):
    arrays, flags = load(name)
    p = {n.removeprefix("param__"): x for n, x in arrays.items() if n.startswith("param__")}
    parameters, options = arguments(p, flags)
    kind, rate = options["discretization"], options["rate"]
    del parameters["D"]
    a, gain, B, _ = one_step(
        **parameters, discretization=kind, rate=rate, conj_sym=options["conj_sym"]
    )
    assert rel_err(torch.view_as_complex(a), arrays["Lambda_bar"], time=None) <= 1e-14
    B = torch.view_as_complex(mul(gain[:, None], B))
    assert rel_err(B, arrays["B_bar"], time=None) <= 1e-14


# Measured, worst of all files and arrays: 1.2e-14.
@pytest.mark.parametrize("name", FILES)
@each_backend
def test_golden_layers_and_gradients(name, backend):
    arrays, flags = load(name)
    p = {n.removeprefix("param__"): x for n, x in arrays.items() if n.startswith("param__")}
    leaves = {n: x.requires_grad_() for n, x in p.items()}
    u = arrays["u"][None].requires_grad_()
    y = layer(leaves, u, flags, backend)
    grads = torch.autograd.grad(y[0], (u, *leaves.values()), arrays["cotangent"])
    assert rel_err(y[0], arrays["y_layer"], time=None) <= 1e-10
    want = (arrays["grad_u"][None], *(arrays[f"grad__{n}"] for n in leaves))
    found = {
        n: rel_err(x, w, time=None) for n, x, w in zip(("u", *leaves), grads, want, strict=True)
    }
    assert max(found.values()) <= 1e-9, found


# Lengths, sizes, spans, threads.


def by_products(monkeypatch):
    """Take the way that a rate for every token takes on other backends than the CPU's."""
    real = variable.scan
    monkeypatch.setattr(variable, "scan", lambda *x, backend, **y: real(*x, backend="", **y))
    scan = variable.linear_scan
    monkeypatch.setattr(
        variable, "linear_scan", lambda *x, backend, **y: scan(*x, backend="cpu", **y)
    )


def check(problem, backend="cpu", bound=None):
    found = errors(solve(SPEC.op, problem, backend=backend), oracle(problem), problem)
    bound = SPEC.tolerance[problem.dtype] if bound is None else bound
    assert max(found.values()) <= bound, found


SIZES = [(1, 1), (1, 8), (16, 8), (17, 9), (8, 40), (33, 16), (70, 3)]


@pytest.mark.parametrize(("H", "P"), SIZES)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@each_case
def test_sizes(case, H, P, dtype):
    check(Problem.draw(SPEC, case, 2, 20, {"H": H, "P": P}, dtype=dtype))


LENGTHS = {
    "in one span": (70, 30),
    "longer than a span": (300, 700, 5),
    "shorter than a tile": (3, 0, 1, 40, 0),
    "at the edges of tiles and spans": (64, 192, 256, 512),
    "empty at both ends": (0, 300, 0),
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("case", ["zoh", "bilinear"])
def test_packed_lengths(lengths, case):
    T = sum(lengths)
    check(Problem.draw(SPEC, CASES[case], 1, T, dtype=torch.float32, lengths=lengths))


@pytest.mark.parametrize("case", ["zoh", "variable"])
def test_threads_change_nothing_but_sums_over_spans(case, monkeypatch):
    problem = Problem.draw(SPEC, CASES[case], 3, 900, {"H": 16, "P": 12}, dtype=torch.float32)
    want = solve(SPEC.op, problem, backend="cpu")
    monkeypatch.setattr(threads, "count", lambda *_: 3)
    got = solve(SPEC.op, problem, backend="cpu")
    for name in ("output", "final_state", "d_u", "d_initial_state"):
        assert torch.equal(got[name], want[name]), name
    assert_all_close(got, want, 1e-6)
    assert_all_close(solve(SPEC.op, problem, backend="cpu"), got, 0)


def assert_all_close(got, want, bound):
    found = {n: rel_err(got[n], want[n], time=None) for n in want}
    assert max(found.values()) <= bound, found


# Measured on CPUs with all modes of HiPPO-LegS for n = 64, the fastest of which turns by up to 130
# radians a step: output 1.8e-7, state 6.3e-8, gradients up to 9.5e-7; with a rate for every token
# 2.3e-7, 7.7e-8 and 9.7e-7, and by products around `linear_scan` 2.5e-6, 5.1e-6 and 1.9e-5.
@pytest.mark.parametrize(
    ("per_token", "composed", "bound"),
    [(False, False, 5e-6), (True, False, 5e-6), (True, True, 1e-4)],
)
def test_long_memory(per_token, composed, bound, monkeypatch):
    if composed:
        by_products(monkeypatch)
    n, T, H = 64, 16384, 4
    i = torch.arange(n, dtype=F64)
    p = (i + 0.5).sqrt()
    lower = torch.outer(p, p).tril(-1)
    values, vectors = torch.linalg.eigh(-1j * (lower.T - lower))
    half = values >= 0
    B = torch.view_as_real(vectors[:, half].mH @ (2 * i + 1).sqrt().to(vectors.dtype))
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "u": torch.randn(1, T, H, generator=draw, dtype=F64),
        "A": torch.stack((torch.full_like(values[half], -0.5), values[half]), -1),
        "B": B[:, None].repeat(1, H, 1),
        "C": torch.randn(H, n // 2, 2, generator=draw, dtype=F64),
        "dt": torch.logspace(-4, -1, n // 2, dtype=F64),
    }
    dy = torch.randn(1, T, H, generator=draw, dtype=F64)

    def run(dtype, **rate):
        leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
        leaves["u"] = inputs["u"].to(dtype).requires_grad_()
        y, state = mimo_ssm(**leaves, **rate, return_final_state=True)
        grads = torch.autograd.grad(y, tuple(leaves.values()), dy.to(dtype))
        return dict(zip(("y", "state", *leaves), (y, state, *grads), strict=True))

    want = run(F64)
    got = run(torch.float32, **({"rate": torch.ones(1, T, dtype=F64)} if per_token else {}))
    assert (got["y"] - want["y"]).abs().max() <= bound * want["y"].abs().max()
    assert_all_close(got, want, bound)


# Pairs, conjugates, steps.


@fast_backend
def test_complex_tensors_serve_as_pairs(backend):
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 5)
    want = solve(SPEC.op, problem, backend=backend)
    inputs = {
        n: torch.view_as_complex(x) if n in ("A", "B", "C") else x
        for n, x in problem.inputs.items()
    }
    h0 = torch.view_as_complex(problem.initial_state)
    options = {"return_final_state": True, "backend": backend}
    y, state = mimo_ssm(**inputs, initial_state=h0, **options)
    assert torch.equal(y, want["output"])
    assert torch.equal(state, want["final_state"])
    inputs["B"] = inputs["B"].conj().resolve_conj().conj()  # a lazy conjugate
    assert torch.equal(mimo_ssm(**inputs, initial_state=h0, **options)[0], y)
    step, _ = mimo_ssm_step(**{**inputs, "u": inputs["u"][:, :1]}, state=h0)
    assert rel_err(step, y[:, :1]) <= 1e-14


@fast_backend
def test_half_of_the_states_stands_for_all(backend):
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 9)
    inputs = dict(problem.inputs)
    want, _ = mimo_ssm(**inputs, backend=backend)
    sign = torch.tensor((1.0, -1.0), dtype=F64)
    inputs |= {n: torch.cat((inputs[n], sign * inputs[n])) for n in ("A", "B")}
    inputs["C"] = torch.cat((inputs["C"], sign * inputs["C"]), 1)
    inputs["dt"] = inputs["dt"].repeat(2)
    y, _ = mimo_ssm(**inputs, conj_sym=False, backend=backend)
    assert rel_err(y, want) <= 1e-14


def test_parameters_in_float64_beside_rounded_inputs():
    problem = Problem.draw(SPEC, CASES["variable"], 2, 9)
    want, _ = mimo_ssm(**problem.inputs)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        inputs = {**problem.inputs, "u": problem.inputs["u"].to(dtype)}
        y, _ = mimo_ssm(**inputs)
        assert y.dtype == dtype
        assert rel_err(y, want) <= bound


# Both directions.


def both_ways(dtype=F64, T=9, P=3, lengths=None):
    """A problem's inputs with C for both directions."""
    problem = Problem.draw(SPEC, CASES["zoh"], 1 if lengths else 2, T, {"H": 4, "P": P})
    inputs = dict(problem.inputs)
    inputs["C"] = torch.cat((inputs["C"], inputs["C"].flip(1) + 1), 1)
    return {n: x.to(dtype) for n, x in inputs.items()}


@each_backend
@pytest.mark.parametrize("rate", [1.0, 0.5, "tokens"])
def test_second_direction_reads_its_own_step_too(backend, rate):
    inputs = both_ways()
    if rate == "tokens":
        rate = torch.linspace(0, 2, 18, dtype=F64).view(2, 9)
    forth, back = inputs.pop("C").chunk(2, 1)
    y, state = mimo_ssm(
        **inputs, C=torch.cat((forth, back), 1), rate=rate, bidirectional=True, backend=backend
    )
    assert state is None
    want, _ = mimo_ssm(**inputs, C=forth, rate=rate, backend=backend)
    flipped = {**inputs, "u": inputs["u"].flip(1), "D": None}
    rate = rate.flip(1) if isinstance(rate, torch.Tensor) else rate
    other, _ = mimo_ssm(**flipped, C=back, rate=rate, backend=backend)
    assert rel_err(y, want + other.flip(1)) <= 1e-14


@fast_backend
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_token", [False, True])
def test_both_directions_and_gradients(backend, dtype, per_token):
    inputs = both_ways(dtype, T=70)
    if per_token:
        inputs["rate"] = torch.linspace(0, 2, 140, dtype=F64).view(2, 70).to(dtype)
    dy = torch.randn(2, 70, 4, dtype=F64, generator=torch.Generator().manual_seed(0))

    def run(inputs, backend):
        leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
        y, _ = mimo_ssm(**leaves, bidirectional=True, backend=backend)
        grads = torch.autograd.grad(y, tuple(leaves.values()), dy.to(y.dtype))
        return dict(zip(("y", *leaves), (y, *grads), strict=True))

    got = run(inputs, backend)
    want = run({n: x.to(F64) for n, x in inputs.items()}, "reference")
    bound = SPEC.tolerance[dtype] * torch.finfo(dtype).eps
    found = {n: rel_err(got[n], want[n], time=None) for n in want}
    assert max(found.values()) <= bound, found


@fast_backend
def test_both_directions_packed(backend):
    lengths = (3, 0, 1, 5)
    inputs = both_ways(torch.float32, lengths=lengths)
    bounds = torch.tensor((0, *lengths)).cumsum(0)
    y, _ = mimo_ssm(**inputs, bidirectional=True, cu_seqlens=bounds, backend=backend)
    for i, j in pairwise(bounds.tolist()):
        part = {**inputs, "u": inputs["u"][:, i:j]}
        want, _ = mimo_ssm(**part, bidirectional=True, backend=backend)
        assert torch.equal(y[:, i:j], want)


# A rate for every token.


@each_backend
def test_one_rate_for_all_tokens_is_a_number(backend):
    problem = Problem.draw(SPEC, CASES["bilinear"], 2, 9)
    options = {"return_final_state": True, "backend": backend, **problem.case.options}
    got = mimo_ssm(**problem.inputs, rate=torch.full((2, 9), 0.5, dtype=F64), **options)
    want = mimo_ssm(**problem.inputs, rate=0.5, **options)
    assert rel_err(got[0], want[0]) <= 1e-14
    assert rel_err(got[1], want[1], time=None) <= 1e-14


@each_backend
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16], ids=str)
def test_tokens_at_rate_0_are_not_there(backend, dtype):
    problem = Problem.draw(SPEC, CASES["variable"], 1, 9, dtype=dtype)
    options = {"return_final_state": True, "backend": backend}
    inputs, h0 = dict(problem.inputs), problem.initial_state
    kept = torch.tensor([1, 2, 5, 8])
    rate = torch.zeros_like(inputs["rate"])
    rate[:, kept] = inputs["rate"][:, kept]
    y, state = mimo_ssm(**{**inputs, "rate": rate}, initial_state=h0, **options)
    few = {**inputs, "u": inputs["u"][:, kept], "rate": rate[:, kept]}
    want, want_state = mimo_ssm(**few, initial_state=h0, **options)
    # a product of other rows may sum in another order
    assert rel_err(state, want_state, time=None) <= 2 * torch.finfo(state.dtype).eps
    assert rel_err(y[:, kept], want) <= 2 * torch.finfo(dtype).eps
    rate = torch.zeros_like(rate)
    _, state = mimo_ssm(**{**inputs, "rate": rate}, initial_state=h0, **options)
    assert torch.equal(state, h0)


def test_step_with_rates():
    problem = Problem.draw(SPEC, CASES["variable"], 3, 1)
    rate = torch.tensor([[0.0], [0.5], [2.0]], dtype=F64)
    inputs = {**problem.inputs, "rate": rate}
    y, state = mimo_ssm(
        **inputs, initial_state=problem.initial_state, return_final_state=True, backend="reference"
    )
    got, got_state = mimo_ssm_step(**inputs, state=problem.initial_state)
    assert rel_err(got, y) <= 1e-14
    assert rel_err(got_state, state, time=None) <= 1e-14
    assert torch.equal(got_state[0], problem.initial_state[0])


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["zoh", "bilinear"])
def test_products_around_linear_scan(dtype, kind, monkeypatch):
    case = replace(CASES["variable"], options={"discretization": kind})
    lengths = (30, 0, 40)
    problem = Problem.draw(SPEC, case, 1, 70, {"H": 4, "P": 9}, dtype=dtype, lengths=lengths)
    check(problem)
    by_products(monkeypatch)
    check(problem)


# Rates so small that psi is next to 1 and phi is a series, on both sides of where it begins, and
# so large that a state is gone in a step.
@pytest.mark.parametrize("kind", ["zoh", "bilinear"])
@pytest.mark.parametrize("rate", [1e-9, 1e-3, 0.2, 0.5, 3.0, 30.0])
def test_rates_of_any_size(kind, rate):
    case = replace(CASES["variable"], options={"discretization": kind})

    def change(inputs):
        A = torch.tensor((-0.3, 0.8), dtype=F64).expand_as(inputs["A"])
        dt = torch.ones_like(inputs["dt"])
        return {**inputs, "A": A, "dt": dt, "rate": rate * inputs["rate"]}

    check(Problem.draw(SPEC, case, 2, 40, dtype=F64, change=change))


# Steps of any size: the gradient of dt decays with the state, so that it is held to its natural
# size, that of the gradient of B.


@pytest.mark.parametrize("kind", ["zoh", "bilinear"])
@pytest.mark.parametrize("dt", [1e-6, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("real", [-1e-4, -0.5, -1e3])
def test_extreme_steps(kind, dt, real):
    problem = Problem.draw(SPEC, CASES["zoh"], 1, 40, dtype=torch.float32)
    inputs = {n: x.double() for n, x in problem.inputs.items()}
    inputs["dt"].fill_(dt)
    inputs["A"][:, 0] = real
    dy = problem.output_grad

    def run(inputs, backend):
        leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
        y, _ = mimo_ssm(**leaves, discretization=kind, backend=backend)
        grads = torch.autograd.grad(y, tuple(leaves.values()), dy.to(y.dtype))
        return dict(zip(("y", *leaves), (y, *grads), strict=True))

    want = run(inputs, "reference")
    got = run({**inputs, "u": inputs["u"].float()}, "cpu")
    assert all(x.isfinite().all() for x in got.values())
    dt_scale = want["B"].norm() * inputs["B"].norm()
    assert (got["dt"] - want["dt"]).norm() <= 1e-5 * max(dt_scale, want["dt"].norm())
    for name in ("y", "u", "B", "C", "D"):
        assert rel_err(got[name], want[name], time=None) <= 1e-5, name


# Nothing at all, and bad input.


@each_backend
@pytest.mark.parametrize("case", CASES)
def test_no_tokens(case, backend):
    problem = Problem.draw(SPEC, CASES[case], 2, 0)
    y, state = mimo_ssm(
        **problem.inputs,
        **problem.case.options,
        initial_state=problem.initial_state,
        return_final_state=True,
        backend=backend,
    )
    assert y.shape == (2, 0, 3)
    assert torch.equal(state, problem.initial_state)


BAD = {
    "channels": ({"u": torch.zeros(2, 5, 4)}, ValueError, "B must have shape .* H=4"),
    "states": ({"dt": torch.ones(3)}, ValueError, r"dt must have shape \(P\) with P=2"),
    "no pairs": ({"A": torch.ones(2)}, ValueError, "A must have shape .P, 2."),
    "one direction": ({"bidirectional": True}, ValueError, r"C must have shape .H, 2P, 2. with 2P"),
    "dt zero": ({"dt": torch.tensor([0.1, 0])}, ValueError, "dt must be positive .* got 0.0"),
    "dt inf": ({"dt": torch.tensor([0.1, torch.inf])}, ValueError, "dt must be .* got inf"),
    "dtype": ({"A": torch.ones(2, 2).half()}, TypeError, "A must have dtype torch.float32 as u"),
    "method": ({"discretization": "euler"}, ValueError, "discretization must be one of .*'euler'"),
    "rate sign": ({"rate": -1.0}, ValueError, "rate must be positive and finite, got -1.0"),
    "rate nan": ({"rate": float("nan")}, ValueError, "rate must be positive and finite, got nan"),
    "rate kind": ({"rate": "fast"}, TypeError, "rate must be a number, got str"),
    "rates shape": ({"rate": torch.ones(2, 4)}, ValueError, r"rate must have shape \(B, T\)"),
    "rates sign": ({"rate": torch.full((2, 5), -0.5)}, ValueError, "rate must be 0 .* got -0.5"),
    "rates dtype": ({"rate": torch.ones(2, 5).half()}, TypeError, "rate must have dtype"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("backend", [REFERENCE, CPU])
def test_bad_input(change, error, message, backend):
    inputs = Problem.draw(SPEC, CASES["zoh"], 2, 5, dtype=torch.float32).inputs
    with pytest.raises(error, match=message):
        mimo_ssm(**{**inputs, **change}, backend=backend)


def test_states_of_both_directions_are_refused():
    inputs = both_ways()
    state = torch.zeros(2, 3, 2, dtype=F64)
    for more in ({"initial_state": state}, {"return_final_state": True}):
        with pytest.raises(ValueError, match="must be left out with bidirectional=True"):
            mimo_ssm(**inputs, bidirectional=True, **more)


def test_bad_steps():
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 2)
    inputs, state = problem.inputs, problem.initial_state
    with pytest.raises(ValueError, match=r"u must have .* T=1 in a step, got \(2, 2, 3\)"):
        mimo_ssm_step(**inputs, state=state)
    inputs = {**inputs, "u": inputs["u"][:, :1]}
    with pytest.raises(ValueError, match=r"state must have shape .* Nseq=2"):
        mimo_ssm_step(**inputs, state=state[:1])
    with pytest.raises(TypeError, match=r"state must have dtype torch\.float64"):
        mimo_ssm_step(**inputs, state=state.float())
