# SPDX-License-Identifier: Apache-2.0
"""What the selective scan adds to the checks of every family: golden vectors, pitfalls, errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from seqlib_kernels import selective_scan, selective_scan_step
from seqlib_kernels._core import threads
from seqlib_kernels.selective_scan import cpu_scan
from seqlib_kernels.selective_scan.reference import decay
from seqlib_kernels.selective_scan.spec import SPEC
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

GOLDEN = Path(__file__).parents[1] / "golden" / "lrnn"
FILES = sorted(GOLDEN.glob("sscan_*.npz"))
REFERENCE = pytest.param("reference", id="reference")
CPU = pytest.param("cpu", id="cpu")
TRITON = pytest.param("triton", id="interpreted", marks=pytest.mark.interpret)
every_backend = pytest.mark.parametrize("backend", [REFERENCE, CPU, TRITON])
CASES = {case.name: case for case in SPEC.cases}


# Golden vectors.


def time_second(x: torch.Tensor) -> torch.Tensor:
    """[B,D,T] as [B,T,D], and [B,G,N,T] as [B,T,G,N]."""
    return x.movedim(-1, 1)


# Measured in November 2026, the worst of all arrays (reference, CPU, interpreted):
# float64 5.8e-16, 6.3e-16, 5.7e-16; float32 5.7e-7, 6.5e-7, 4.3e-7.
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)], ids=["float64", "float32"]
)
@every_backend
def test_golden(path, backend, dtype, bound):
    with np.load(path) as file:
        arrays = {n: torch.from_numpy(file[n]) for n in file.files}
    names = {"u": "u", "dt": "delta", "A": "A", "B": "B", "C": "C", "D": "D", "z": "z"}
    names = {**names, "dt_bias": "delta_bias"}
    timeless = ("A", "D", "dt_bias")

    def read(kind, n):
        x = arrays[f"{kind}_{names[n]}"].to(dtype)
        return x if n in timeless else time_second(x)

    names = {n: name for n, name in names.items() if f"in_{name}" in arrays}
    leaves = {n: read("in", n).requires_grad_() for n in names}
    y, state = selective_scan(
        **leaves,
        dt_softplus=True,
        negative_eigenvalues=bool(arrays["negative_eigenvalues"]),
        return_final_state=True,
        backend=backend,
    )
    cotangents = (time_second(arrays["cot_y"]).to(dtype), arrays["cot_last_state"].to(dtype))
    grads = torch.autograd.grad((y, state), tuple(leaves.values()), cotangents)
    found = {n: rel_err(g, read("grad", n), time=None) for n, g in zip(leaves, grads, strict=True)}
    found["y"] = rel_err(y, time_second(arrays["out_y"]), time=None)
    found["state"] = rel_err(state, arrays["out_last_state"], time=None)
    assert len(found) == 2 + sum(n.startswith("grad_") for n in arrays)
    assert max(found.values()) <= bound, found


# Sizes.


def check(problem, backend="cpu"):
    found = errors(solve(SPEC.op, problem, backend=backend), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[problem.dtype], found


@pytest.mark.parametrize(("D", "N"), [(1, 1), (63, 5), (64, 16), (65, 2), (130, 1), (4, 64)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_sizes(D, N, dtype):
    check(Problem.draw(SPEC, CASES["mixer"], 1, 9, {"D": D, "N": N}, dtype=dtype))


@pytest.mark.interpret
@pytest.mark.parametrize(("D", "N"), [(1, 1), (9, 5), (3, 16), (17, 1), (2, 64)])
def test_sizes_interpreted(D, N):
    problem = Problem.draw(SPEC, CASES["mixer"], 1, 9, {"D": D, "N": N}, dtype=torch.float32)
    check(problem, "triton")


# Lengths around pieces of time and far from any, on sizes that fill several blocks of channels.
@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
@pytest.mark.parametrize("case", CASES)
def test_lengths(case, T):
    dims = {"D": 130, "N": 2, "G": 2}
    check(Problem.draw(SPEC, CASES[case], 1, T, dims, dtype=torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize(("D", "N"), [(20, 5), (100, 16), (256, 16), (130, 64), (32, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", ["plain", "mixer"])
def test_sizes_on_a_gpu(case, dtype, D, N):
    dims = {"D": D, "N": N}
    # The CPU kernels' worst, measured: float32 7.6 eps, bfloat16 0.87, float16 1.04.
    problem = Problem.draw(SPEC, CASES[case], 2, 133, dims, dtype=dtype, device="cuda")
    check(problem, "triton")


def test_any_split_hands_the_state_over():
    """On CPUs bit for bit, wherever the pieces of time lie."""
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 35, dtype=torch.float32)
    case, options = problem.case, {**CASES["mixer"].options, "return_final_state": True}
    h0 = problem.initial_state
    whole, last = selective_scan(**problem.inputs, **options, initial_state=h0)
    for t in range(36):
        a, middle = selective_scan(**case.tokens(problem.inputs, 0, t), **options, initial_state=h0)
        rest = case.tokens(problem.inputs, t, 35)
        b, end = selective_scan(**rest, **options, initial_state=middle)
        assert torch.equal(torch.cat([a, b], 1), whole)
        assert torch.equal(end, last)


@pytest.mark.parametrize(("D", "G"), [(6, 1), (6, 3), (6, 6), (132, 2)])
def test_groups(D, G):
    dims = {"D": D, "N": 2, "G": G}
    check(Problem.draw(SPEC, CASES["grouped"], 2, 5, dims, dtype=torch.float32))


@every_backend
def test_one_group_is_no_group(backend):
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 5, dtype=torch.float32)
    want = solve(SPEC.op, problem, backend=backend)
    grouped = {n: x[:, :, None] if n in "BC" else x for n, x in problem.inputs.items()}
    got = solve(SPEC.op, replace(problem, inputs=grouped), backend=backend)
    assert all(torch.equal(got[n].reshape(want[n].shape), want[n]) for n in want)


@every_backend
@pytest.mark.parametrize(
    "sizes",
    [(0, 5, 4, 2), (2, 5, 0, 2), (2, 5, 4, 0)],
    ids=["no batch", "no channels", "no states"],
)
def test_empty(backend, sizes):
    B, T, D, N = sizes
    x, shared = torch.ones(B, T, D, requires_grad=True), torch.ones(B, T, N)
    A, skip = -torch.ones(D, N), torch.full((D,), 3.0)
    y, state = selective_scan(
        x, x, A, shared, shared, skip, return_final_state=True, backend=backend
    )
    assert y.shape == x.shape
    assert state.shape == (B, D, N)
    (gradient,) = torch.autograd.grad(y.sum() + state.sum(), x)
    assert gradient.shape == x.shape
    if N == 0:  # the skip is left
        assert torch.equal(y, 3 * x)
        assert torch.equal(gradient, torch.full_like(x, 3.0))


# Optional arguments, each alone.


@every_backend
@pytest.mark.parametrize("left_out", ["D", "z", "dt_bias"])
def test_optional_arguments(backend, left_out):
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 5, dtype=torch.float32)
    inputs = {n: x for n, x in problem.inputs.items() if n != left_out}
    check(replace(problem, inputs=inputs), backend)


# The map of eigenvalues.


@every_backend
def test_large_steps_flip_the_sign_of_the_state(backend):
    """exp(Delta A) underflows to 0: a is exactly -1 in the negative map, 0 in the other."""
    dt, A, zeros = torch.full((1, 3, 2), 300.0), -torch.ones(2, 4), torch.zeros(1, 3, 4)
    h0 = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0))
    for negative, factor in ((True, -1.0), (False, 0.0)):
        options = {"negative_eigenvalues": negative, "initial_state": h0, "backend": backend}
        _, state = selective_scan(dt, dt, A, zeros, zeros, return_final_state=True, **options)
        assert torch.equal(state, factor * h0)


@every_backend
def test_zero_steps_keep_the_state(backend):
    zeros, A, shared = torch.zeros(1, 40, 2), -torch.ones(2, 4), torch.ones(1, 40, 4)
    h0 = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0))
    for negative in (True, False):
        options = {"negative_eigenvalues": negative, "initial_state": h0, "backend": backend}
        _, state = selective_scan(
            zeros + 1, zeros, A, shared, shared, return_final_state=True, **options
        )
        assert torch.equal(state, h0)


def test_step_uses_the_map_of_the_sequence():
    """Generation with exp(Delta A) after training with 2 exp(Delta A) - 1 would go unnoticed."""
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 1, dtype=torch.float64)
    options = dict(problem.case.options)
    states = {}
    for negative in (True, False):
        options["negative_eigenvalues"] = negative
        _, want = selective_scan(
            **problem.inputs,
            **options,
            initial_state=problem.initial_state,
            return_final_state=True,
            backend="cpu",
        )
        _, states[negative] = selective_scan_step(
            **problem.inputs, **options, state=problem.initial_state
        )
        torch.testing.assert_close(states[negative], want, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(states[True], states[False], rtol=0.01)


def test_negative_map_covers_the_interval():
    delta = torch.tensor([1e-3, 0.1, 1.0, 300.0], dtype=torch.float64)
    a = decay(delta[:, None], -torch.arange(1.0, 17.0, dtype=torch.float64)[None], True)
    assert a.min() == -1
    assert 0.99 < a.max() < 1
    assert (decay(delta[:, None], -torch.ones(1, 1).double(), False) >= 0).all()


@every_backend
def test_gradient_where_eigenvalues_are_zero(backend):
    """e = 1/2 makes a = 0: h[t-1] can't be had by dividing, and dA, ddt must be right."""
    problem = Problem.draw(SPEC, CASES["grouped"], 1, 9)
    half = torch.full_like(problem.inputs["A"], -np.log(2.0))
    inputs = {**problem.inputs, "A": half, "dt": torch.ones_like(problem.inputs["dt"])}
    problem = replace(problem, inputs=inputs)
    got = solve(SPEC.op, problem, backend=backend)
    assert got["d_dt"].abs().min() > 0
    assert max(errors(got, oracle(problem), problem).values()) <= SPEC.tolerance[torch.float64]


# Padding: dt = -inf under softplus.


def padded(dtype, backend):
    """A problem whose tokens 2 and 5 are padding, and the same without these tokens."""
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 7, dtype=dtype)
    inputs = {n: x.clone() for n, x in problem.inputs.items()}
    inputs["dt"][:, [2, 5]] = -torch.inf
    kept = [0, 1, 3, 4, 6]
    short = {n: x if n in problem.case.constants else x[:, kept] for n, x in inputs.items()}
    long = replace(problem, inputs=inputs)
    cut = replace(problem, inputs=short, output_grad=problem.output_grad[:, kept])
    # Nothing is read where padding stands: mixers drop those outputs.
    long.output_grad[:, [2, 5]] = 0
    return solve(SPEC.op, long, backend=backend), solve(SPEC.op, cut, backend=backend), kept


@every_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_padding_changes_nothing(backend, dtype):
    long, short, kept = padded(dtype, backend)
    timeless = {"final_state", "d_initial_state", "d_A", "d_D", "d_dt_bias"}
    bound = 4 * torch.finfo(dtype).eps
    for n, want in short.items():
        got = long[n] if n in timeless else long[n][:, kept]
        assert rel_err(got, want, time=None) <= bound, n
        assert long[n].isfinite().all(), n
    assert torch.equal(long["d_dt"][:, [2, 5]], torch.zeros_like(long["d_dt"][:, :2]))
    assert torch.equal(long["d_B"][:, [2, 5]], torch.zeros_like(long["d_B"][:, :2]))


@every_backend
def test_padding_is_exact(backend):
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 3, dtype=torch.float32)
    inputs = {**problem.inputs, "dt": torch.full_like(problem.inputs["dt"], -torch.inf)}
    got = solve(SPEC.op, replace(problem, inputs=inputs), backend=backend)
    assert torch.equal(got["final_state"], problem.initial_state)
    for n in ("d_dt", "d_dt_bias", "d_A", "d_B"):
        assert torch.equal(got[n], torch.zeros_like(got[n])), n


def test_padding_step_is_exact():
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 1, dtype=torch.float32)
    dt = torch.full_like(problem.inputs["dt"], -torch.inf).requires_grad_()
    h0 = problem.initial_state.requires_grad_()
    inputs = {**problem.inputs, "dt": dt}
    y, state = selective_scan_step(**inputs, **problem.case.options, state=h0)
    assert torch.equal(state, h0)
    ddt, dh0 = torch.autograd.grad((y, state), (dt, h0), (torch.ones_like(y), 0 * state + 1))
    assert torch.equal(ddt, torch.zeros_like(ddt))
    assert dh0.isfinite().all()


@every_backend
def test_nan_stays_in_its_packed_sequence(backend):
    """Backward kernels load the rows around a tile, those of other sequences too."""
    problem = Problem.draw(SPEC, CASES["mixer"], 1, 18, dtype=torch.float32, lengths=(5, 8, 5))
    inputs = {n: x.clone() for n, x in problem.inputs.items()}
    for n in inputs.keys() - problem.case.constants:
        inputs[n][:, [4, 13]] = torch.nan
    got = solve(SPEC.op, replace(problem, inputs=inputs), backend=backend)
    for n in inputs.keys() - problem.case.constants:
        assert got[f"d_{n}"][:, 4].isnan().any()
        assert not got[f"d_{n}"][:, 5:13].isnan().any(), n
    assert not got["output"][:, 5:13].isnan().any()
    assert not got["d_initial_state"][1].isnan().any()


# Small and large step sizes through softplus.


# Measured: 1.4e-7 on the CPU and 1.1e-7 interpreted. log(1 + exp(dt)) as it stands loses all of a
# step at dt = -17, and a thousandth of one at -10.
@pytest.mark.parametrize("backend", [CPU, TRITON])
def test_softplus_of_small_steps(backend):
    dt = torch.linspace(-40, 30, 15).reshape(1, 15, 1).requires_grad_()
    ones = torch.ones(1, 15, 1)
    # With a = 1 (A = 0) the steps of the output are Delta.
    y, _ = selective_scan(
        ones, dt, torch.zeros(1, 1), ones, ones, dt_softplus=True,
        cu_seqlens=torch.arange(16), backend=backend,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(y.sum(), dt)
    wide = dt.double()
    want = torch.nn.functional.softplus(wide)
    assert ((y - want).abs() / want).max() < 4e-7
    assert ((slope - wide.sigmoid()).abs() / wide.sigmoid()).max() < 4e-7


# Memory, dtypes, threads.


@pytest.mark.parametrize("backend", [CPU, TRITON])
def test_rates_in_float32_beside_bfloat16(backend):
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 5, dtype=torch.bfloat16)
    wide = {n: problem.inputs[n].float() + 1e-4 for n in ("A", "D", "dt_bias")}
    problem = replace(problem, inputs={**problem.inputs, **wide})
    got = solve(SPEC.op, problem, backend=backend)
    assert all(got[f"d_{n}"].dtype == torch.float32 for n in wide)
    check(problem, backend)
    rounded = replace(problem, inputs={n: x.bfloat16() for n, x in problem.inputs.items()})
    assert not torch.equal(got["final_state"], solve(SPEC.op, rounded)["final_state"])


def test_sixteen_bit_states_are_float32():
    half = torch.ones(2, 5, 3).half()
    shared = torch.ones(2, 5, 2).half()
    A = -torch.ones(3, 2)
    _, state = selective_scan(half, half, A, shared, shared, return_final_state=True)
    assert state.dtype == torch.float32
    with pytest.raises(TypeError, match=r"initial_state must have dtype torch\.float32"):
        selective_scan(half, half, A, shared, shared, initial_state=state.half())


@pytest.mark.parametrize("workers", [2, 3])
def test_threads_change_nothing(workers, monkeypatch):
    dims = {"D": 200, "N": 3}
    problem = Problem.draw(
        SPEC, CASES["mixer"], 1, 40, dims, dtype=torch.float32, lengths=(17, 0, 23)
    )
    one = solve(SPEC.op, problem, backend="cpu")
    monkeypatch.setattr(threads, "count", lambda elements: workers)
    several = solve(SPEC.op, problem, backend="cpu")
    assert all(torch.equal(one[n], several[n]) for n in one)


def test_masked_piece_length_is_a_power_of_two():
    """The sweep back takes its row as i & (PIECE - 1)."""
    assert cpu_scan.PIECE & (cpu_scan.PIECE - 1) == 0


def test_no_gradient_keeps_no_states(monkeypatch):
    shapes = []
    original = cpu_scan.forward

    def forward(inputs, h0, y, hT, states, *rest):
        shapes.append(states.shape[0])
        original(inputs, h0, y, hT, states, *rest)

    monkeypatch.setattr(cpu_scan, "forward", forward)
    problem = Problem.draw(SPEC, CASES["mixer"], 2, 70, dtype=torch.float32)
    selective_scan(**problem.inputs)
    problem.inputs["u"].requires_grad_()
    selective_scan(**problem.inputs)
    assert shapes == [0, 140 // cpu_scan.PIECE + 2]


# Compilers.


def test_lengths_never_choose_the_code():
    from seqlib_kernels.selective_scan import kernels

    free = {
        "_scan": {"T"},
        "_adjoint": {"T", "part"},
        "_sum_blocks": {"size"},
        "_sum_sequences": {"sequences"},
    }
    for name, lengths in free.items():
        params = getattr(kernels, name).params
        assert {p.name for p in params if p.do_not_specialize} == lengths
        assert not lengths & {p.name for p in params if p.is_constexpr}


# Bad input.


def inputs(**changes):
    x, shared = torch.ones(2, 5, 4), torch.ones(2, 5, 3)
    made = {"u": x, "dt": x, "A": -torch.ones(4, 3), "B": shared, "C": shared}
    return {**made, **changes}


BAD = {
    "u list": ({"u": [1.0]}, TypeError, "u must be a tensor, got list"),
    "u rank": ({"u": torch.ones(2, 5)}, ValueError, r"u must have shape \(B, T, D\), got \(2, 5\)"),
    "u integer": ({"u": torch.ones(2, 5, 4).int()}, TypeError, "u must have one of the dtypes"),
    "dt length": ({"dt": torch.ones(2, 4, 4)}, ValueError, r"dt must have shape .* T=5"),
    "dt channels": ({"dt": torch.ones(2, 5, 1)}, ValueError, r"dt must have shape .* D=4"),
    "dt dtype": ({"dt": torch.ones(2, 5, 4).half()}, ValueError, "dt must have the dtype of u"),
    "A rank": ({"A": torch.ones(4)}, ValueError, r"A must have shape \(D, N\), got \(4,\)"),
    "A channels": ({"A": torch.ones(3, 3)}, ValueError, r"A must have shape .* D=4"),
    "A dtype": ({"A": torch.ones(4, 3).half()}, TypeError, "A must have dtype torch.float32 as u"),
    "A complex": ({"A": torch.ones(4, 3) + 0j}, TypeError, "A must have dtype torch.float32 as u"),
    "B states": ({"B": torch.ones(2, 5, 2)}, ValueError, r"B must have shape .* N=3"),
    "B dtype": ({"B": torch.ones(2, 5, 3).half()}, ValueError, "B must have the dtype of u"),
    "C states": ({"C": torch.ones(2, 5, 4)}, ValueError, r"C must have shape .* N=3"),
    "C grouped alone": (
        {"C": torch.ones(2, 5, 1, 3)},
        ValueError,
        r"C must have shape \(B, T, N\), got \(2, 5, 1, 3\)",
    ),
    "groups": (
        {"B": torch.ones(2, 5, 3, 3), "C": torch.ones(2, 5, 3, 3)},
        ValueError,
        "B must have a number of groups G that divides D=4, the channels of u, got G=3",
    ),
    "no group": (
        {"B": torch.ones(2, 5, 0, 3), "C": torch.ones(2, 5, 0, 3)},
        ValueError,
        "B must have a number of groups G .* got G=0",
    ),
    "D size": ({"D": torch.ones(3)}, ValueError, r"D must have shape \(D\) with D=4"),
    "D dtype": ({"D": torch.ones(4).half()}, TypeError, "D must have dtype torch.float32 as u"),
    "z shape": ({"z": torch.ones(2, 5, 3)}, ValueError, r"z must have shape .* D=4"),
    "z dtype": ({"z": torch.ones(2, 5, 4).half()}, ValueError, "z must have the dtype of u"),
    "dt_bias size": ({"dt_bias": torch.ones(4, 1)}, ValueError, r"dt_bias must have shape \(D\)"),
    "dt_bias device": (
        {"dt_bias": torch.ones(4, device="meta")},
        ValueError,
        "dt_bias must be on the device of u",
    ),
    "state shape": (
        {"initial_state": torch.ones(2, 3, 4)},
        ValueError,
        r"initial_state must have shape \(Nseq, D, N\)",
    ),
    "backend": ({"backend": "cuda"}, ValueError, "backend must be one of .* got 'cuda'"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        selective_scan(**inputs(**changes))


def test_bad_step_input():
    one = {n: x[:, :1] if n != "A" else x for n, x in inputs().items()}
    state = torch.ones(2, 4, 3)
    with pytest.raises(ValueError, match=r"u must have shape \(B, T, D\) with T=1 in a step"):
        selective_scan_step(**inputs(), state=state)
    with pytest.raises(ValueError, match=r"state must have shape .* got \(1, 4, 3\)"):
        selective_scan_step(**one, state=state[:1])
    with pytest.raises(TypeError, match=r"state must have dtype torch\.float32"):
        selective_scan_step(**one, state=state.double())
    with pytest.raises(ValueError, match=r"dt must have shape"):
        selective_scan_step(**{**one, "dt": torch.ones(2, 2, 4)}, state=state)
