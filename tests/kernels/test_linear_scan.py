# SPDX-License-Identifier: Apache-2.0
"""What the linear scan adds to the checks of every family: golden vectors, bad input, plans."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from seqlib_kernels import linear_scan, linear_scan_step
from seqlib_kernels._core import threads
from seqlib_kernels.linear_scan import cpu
from seqlib_kernels.linear_scan.spec import SPEC
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

GOLDEN = Path(__file__).parents[1] / "golden" / "lrnn" / "diag_scan_signed.npz"
BACKENDS = [
    pytest.param("cpu", id="cpu"),
    pytest.param("triton", id="interpreted", marks=pytest.mark.interpret),
]


# Measured in November 2026, the worst of the four arrays (reference, CPU, interpreted):
# float64 0, 1.3e-16, 0; float32 8.5e-8, 7.0e-8, 8.5e-8.
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-7)], ids=["float64", "float32"]
)
@pytest.mark.parametrize(
    "backend",
    ["reference", "cpu", pytest.param("triton", marks=pytest.mark.interpret, id="interpreted")],
)
def test_golden(backend, dtype, bound):
    with np.load(GOLDEN) as file:
        arrays = {n: torch.from_numpy(file[n]) for n in file.files}
    a, b, h0 = (arrays[f"in_{n}"].to(dtype).requires_grad_() for n in ("a", "b", "h0"))
    h, _ = linear_scan(a, b, initial_state=h0, backend=backend)
    grads = torch.autograd.grad(h, (a, b, h0), arrays["cot_h"].to(dtype))
    got = {"out_h": h} | {f"grad_{n}": g for n, g in zip(("a", "b", "h0"), grads, strict=True)}
    worst = max(rel_err(x, arrays[n], time=None) for n, x in got.items())
    assert worst < bound


def inputs(**changes):
    made = {"a": torch.ones(2, 5, 3), "b": torch.ones(2, 5, 3)}
    return {**made, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": [1.0]}, TypeError, "a must be a tensor, got list"),
        ({"b": None}, TypeError, "b must be a tensor, got NoneType"),
        ({"a": torch.ones(2, 5)}, ValueError, r"a must have shape \(B, T, D\), got \(2, 5\)"),
        ({"b": torch.ones(2, 4, 3)}, ValueError, r"b must have shape .* T=5.* got \(2, 4, 3\)"),
        ({"b": torch.ones(1, 5, 3)}, ValueError, r"b must have shape .* B=2.* got \(1, 5, 3\)"),
        ({"b": torch.ones(2, 5, 1)}, ValueError, r"b must have shape .* D=3.* got \(2, 5, 1\)"),
        ({"b": torch.ones(2, 5, 3).double()}, ValueError, "b must have the dtype of a"),
        ({"b": torch.ones(2, 5, 3, dtype=torch.complex64)}, ValueError, "b must have the dtype"),
        (
            {"a": torch.ones(2, 5, 3).int()},
            TypeError,
            "a must have one of the dtypes .*, got torch.int32",
        ),
        ({"b": torch.ones(2, 5, 3, device="meta")}, ValueError, "b must be on the device of a"),
        ({"initial_state": torch.ones(3, 3)}, ValueError, r"initial_state .* N=2.* got \(3, 3\)"),
        ({"initial_state": torch.ones(2, 1, 3)}, ValueError, r"initial_state .* got \(2, 1, 3\)"),
        (
            {"initial_state": torch.ones(2, 3).half()},
            TypeError,
            "initial_state must have dtype torch.float32, .* got torch.float16",
        ),
        (
            {"initial_state": torch.ones(2, 3, device="meta")},
            ValueError,
            "initial_state must be on the device",
        ),
        ({"backend": "cuda"}, ValueError, "backend must be one of .* got 'cuda'"),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        linear_scan(**inputs(**changes))


def test_sixteen_bit_states_are_float32():
    half = torch.ones(2, 5, 3).half()
    _, state = linear_scan(half, half, return_final_state=True)
    assert state.dtype == torch.float32
    with pytest.raises(TypeError, match=r"initial_state must have dtype torch\.float32"):
        linear_scan(half, half, initial_state=state.half())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": torch.ones(2, 2, 3)}, ValueError, r"a must have shape .* got \(2, 2, 3\)"),
        ({"b": torch.ones(2, 1, 4)}, ValueError, r"b must have shape .* got \(2, 1, 4\)"),
        ({"b": torch.ones(2, 1, 3).half()}, ValueError, "b must have the dtype of a"),
        ({"state": torch.ones(1, 3)}, ValueError, r"state must have shape .* got \(1, 3\)"),
        ({"state": torch.ones(2, 3).double()}, TypeError, "state must have dtype torch.float32"),
    ],
)
def test_bad_step_input(changes, error, message):
    one = torch.ones(2, 1, 3)
    with pytest.raises(error, match=message):
        linear_scan_step(**{"a": one, "b": one, "state": torch.ones(2, 3), **changes})


@pytest.mark.parametrize("D", [8, 20, 36, 100])
@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_in_any_number(backend, D):
    problem = Problem.draw(SPEC, SPEC.cases[0], 2, 20, {"D": D}, dtype=torch.float32)
    found = errors(solve(linear_scan, problem, backend=backend), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[torch.float32], found


@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 63, 64, 65, 130])
@pytest.mark.parametrize("case", SPEC.cases, ids=lambda case: case.name)
def test_lengths(case, T):
    problem = Problem.draw(SPEC, case, 2, T, dtype=case.dtypes[1])
    found = errors(solve(linear_scan, problem), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[case.dtypes[1]], found


@pytest.mark.parametrize("case", SPEC.cases, ids=lambda case: case.name)
def test_any_prefill_and_steps(case):
    """Every split of a sequence in one call and single steps gives the result of the whole."""
    T, reverse = 12, case.options.get("reverse", False)
    problem = Problem.draw(SPEC, case, 2, T, dtype=case.dtypes[1])
    x, h0 = problem.inputs, problem.initial_state
    options = {**case.options, "return_final_state": True}
    whole, last = linear_scan(**x, **options, initial_state=h0)
    for t in range(T + 1):  # steps of the prefill
        first, rest = (T - t, range(T - t - 1, -1, -1)) if reverse else (0, range(t, T))
        h, state = linear_scan(**case.tokens(x, first, first + t), **options, initial_state=h0)
        outputs = {first: h}
        for i in rest:
            outputs[i], state = linear_scan_step(**case.tokens(x, i, i + 1), state=state)
        got = torch.cat([outputs[i] for i in sorted(outputs)], 1)
        assert rel_err(got, whole) < 1e-6
        assert rel_err(state, last, time=None) < 1e-6


@pytest.mark.parametrize(
    ("backend", "T"),
    [("cpu", 32768), pytest.param("triton", 300, marks=pytest.mark.interpret, id="interpreted")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_signs_keep_the_state(backend, T, dtype):
    """With multipliers of exactly 1 and -1 nothing is lost, however long the sequence."""
    a = torch.randn(1, T, 3, generator=torch.Generator().manual_seed(0)).sign().to(dtype)
    state = torch.tensor([[1.0, -0.3, 1e-30]])
    _, last = linear_scan(
        a, torch.zeros_like(a), initial_state=state, return_final_state=True, backend=backend
    )
    assert torch.equal(last, state * a.float().prod(1))


# numpy, which interprets kernels, says so where a product of infinities is none.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_in_its_sequence(backend, value):
    problem = Problem.draw(SPEC, SPEC.cases[0], 1, 30, dtype=torch.float32, lengths=(9, 12, 9))
    want = solve(linear_scan, problem, backend=backend)
    for name in problem.inputs:
        spoilt = {n: x.clone() for n, x in problem.inputs.items()}
        spoilt[name][:, 9:21] = value
        got = solve(linear_scan, replace(problem, inputs=spoilt), backend=backend)
        assert not got["output"][:, 9:21].isfinite().all(), f"what was in {name} vanished"
        for n, x in got.items():
            time = n not in ("final_state", "d_initial_state")
            for part in (slice(0, 9), slice(21, 30)) if time else (slice(0, 1), slice(2, 3)):
                at = (slice(None), part) if time else part
                assert torch.equal(x[at], want[n][at]), (name, n)


def test_lengths_never_choose_the_code():
    from seqlib_kernels.linear_scan import kernels

    for kernel in (kernels._scan, kernels._adjoint):
        free = {p.name for p in kernel.params if p.do_not_specialize}
        assert free == {"T"}
        assert not any(p.is_constexpr for p in kernel.params if p.name == "T")


def test_no_channels():
    empty = torch.ones(2, 5, 0)
    h, state = linear_scan(empty, empty, return_final_state=True)
    assert h.shape == (2, 5, 0)
    assert state.shape == (2, 0)


def test_lazy_conjugates_are_resolved():
    case = SPEC.cases[2]
    problem = Problem.draw(SPEC, case, 2, 5)
    lazy = {n: x.conj() for n, x in problem.inputs.items()}
    assert all(x.is_conj() for x in lazy.values())
    resolved = {n: x.resolve_conj() for n, x in lazy.items()}
    got = solve(linear_scan, replace(problem, inputs=lazy))
    want = solve(linear_scan, replace(problem, inputs=resolved))
    assert all(torch.equal(got[n], want[n]) for n in want)


# The ways to cut one call into jobs for several threads, each on small tensors.
PLANS = {
    "sequences": ({"B": 5, "T": 9}, 3, (1024, 4096)),
    "blocks of channels": ({"B": 1, "T": 9}, 2, (2, 4096)),
    "blocks of wide rows": ({"B": 2, "T": 9}, 1, (1, 2)),
    "segments of time": ({"B": 1, "T": 300}, 4, (1024, 4096)),
    "segments and sequences": ({"B": 2, "T": 300}, 6, (1024, 4096)),
    "segments and blocks": ({"B": 1, "T": 300}, 12, (2, 4096)),
    "packed segments": ({"B": 1, "T": 300, "lengths": (1, 0, 200, 99)}, 12, (1024, 4096)),
}


@pytest.mark.parametrize("case", SPEC.cases, ids=lambda case: case.name)
@pytest.mark.parametrize(("size", "workers", "widths"), PLANS.values(), ids=PLANS)
def test_plans(size, workers, widths, case, monkeypatch):
    runs = []

    def plan_run(plan, kernel, *arguments):
        runs.append(plan)
        return original(plan, kernel, *arguments)

    original = cpu._Plan.run
    monkeypatch.setattr(cpu._Plan, "run", plan_run)
    monkeypatch.setattr(threads, "count", lambda elements: workers)
    monkeypatch.setattr(cpu, "_NARROWEST", widths[0])
    monkeypatch.setattr(cpu, "_WIDEST", widths[1])
    dtype = case.dtypes[1]
    problem = Problem.draw(SPEC, case, **size, dims={"D": 5}, dtype=dtype)
    over = errors(solve(linear_scan, problem), oracle(problem), problem)
    assert max(over.values()) <= SPEC.tolerance[dtype]
    assert all(plan.jobs >= min(workers, 4) for plan in runs), "the plan made too few jobs"


@pytest.mark.interpret
def test_grid_passes_65535_sequences():
    """Sequences lie on the first axis of the grid, the only one that CUDA lets grow so far."""
    from seqlib_kernels.linear_scan import kernels

    grids = []

    class Kernel:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *args, **kwargs: None

    x = torch.ones(1, 3, 5)
    kernels._launch(Kernel(), (x,), x, torch.ones(70_000, 5), False)
    assert grids == [(140_000,)]
