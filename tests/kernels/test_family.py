# SPDX-License-Identifier: Apache-2.0
"""The twelve checks that every kernel family passes, driven by its SPEC, on every backend.

Families come from `seqlib_kernels.testing.SPECS`, backends from TARGETS: the CPU kernels in the
ordinary process, Triton's interpreter in a process of its own, Triton on a GPU where there is one.
"""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from seqlib_kernels import testing
from seqlib_kernels._core.backend import interpreting
from seqlib_kernels.testing import Problem, errors, oracle, solve, tile_lengths
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

pytestmark = pytest.mark.usefixtures("fenced_memory")


class Target(NamedTuple):
    backend: str
    device: str


TARGETS = [
    pytest.param(Target("cpu", "cpu"), id="cpu"),
    pytest.param(Target("triton", "cpu"), id="interpreted", marks=pytest.mark.interpret),
    pytest.param(Target("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
]
CASES = [
    pytest.param(spec, case, id=f"{spec.name}: {case.name}")
    for spec in testing.SPECS
    for case in spec.cases
]
DTYPES = [
    pytest.param(spec, case, dtype, id=f"{spec.name}: {case.name}, {str(dtype)[6:]}")
    for spec in testing.SPECS
    for case in spec.cases
    for dtype in case.dtypes
]
EXTREMES = [
    pytest.param(spec, case, name, id=f"{spec.name}: {case.name}, {name}")
    for spec in testing.SPECS
    for case in spec.cases
    for name in case.extremes
]
target = pytest.mark.parametrize("target", TARGETS)
each_case = pytest.mark.parametrize(("spec", "case"), CASES)
each_case_with_a_state = pytest.mark.parametrize(
    ("spec", "case"), [param for param in CASES if not param.values[1].stateless]
)


def draw(spec, case, B, T, target, **options) -> Problem:
    dtype = options.get("dtype", case.dtypes[0])
    if target.device == "cuda" and dtype in spec.refused_on_gpu:
        pytest.skip(f"{dtype} is refused, as test_refused_on_gpu holds")
    return Problem.draw(spec, case, B, T, device=target.device, **options)


def run(problem, target) -> dict[str, torch.Tensor]:
    return solve(problem.spec.op, problem, backend=target.backend)


def assert_close(got, want, problem, bound=None) -> None:
    """Every result within the family's bound, or the one given."""
    bound = bound or problem.spec.tolerance[problem.dtype]
    over = {n: e for n, e in errors(got, want, problem).items() if not e <= bound}
    assert not over, f"errors in eps of {problem.dtype}, bound {bound}: {over}"


def single(case) -> torch.dtype:
    return case.dtypes[1]


def cut(problem, i, j) -> dict[str, torch.Tensor]:
    """The inputs of tokens i to j."""
    return problem.case.tokens(problem.inputs, i, j)


def long_length(spec, target) -> int:
    """A length of three tiles, the last one not full."""
    return 2 * min(tile_lengths(spec, *target)) + 3


# 1 and 3. Outputs and gradients of every input, with every output in the loss, against float64.


@target
@pytest.mark.parametrize(("spec", "case", "dtype"), DTYPES)
def test_outputs_and_gradients(spec, case, dtype, target):
    problem = draw(spec, case, 2, long_length(spec, target), target, dims=case.odd, dtype=dtype)
    got = run(problem, target)
    for name, x in problem.inputs.items():
        assert got[f"d_{name}"].dtype == x.dtype
    assert got["output"].dtype == dtype
    assert_close(got, oracle(problem), problem)


@target
@each_case_with_a_state
def test_without_initial_state(spec, case, target):
    problem = draw(spec, case, 2, 5, target, dtype=single(case), initial_state=False)
    assert_close(run(problem, target), oracle(problem), problem)


@target
@each_case_with_a_state
def test_final_state_unused(spec, case, target):
    problem = draw(spec, case, 2, 5, target, dtype=single(case))
    unused = replace(problem, state_grad=torch.zeros_like(problem.state_grad))
    want = oracle(unused)
    inputs = {n: x.detach().requires_grad_() for n, x in problem.inputs.items()}
    output, final_state = spec.op(
        **inputs, **case.options, initial_state=problem.initial_state, backend=target.backend
    )
    assert final_state is None
    grads = torch.autograd.grad(output, tuple(inputs.values()), problem.output_grad)
    got = {"output": output} | {f"d_{n}": g for n, g in zip(inputs, grads, strict=True)}
    assert_close(got, {n: want[n] for n in got}, problem)


@target
@each_case_with_a_state
def test_only_the_final_state_used(spec, case, target):
    problem = draw(spec, case, 2, 5, target, dtype=single(case))
    unused = replace(problem, output_grad=torch.zeros_like(problem.output_grad))
    want = oracle(unused)
    h0 = problem.initial_state.detach().requires_grad_()
    _, final_state = spec.op(
        **problem.inputs,
        **case.options,
        initial_state=h0,
        return_final_state=True,
        backend=target.backend,
    )
    (dh0,) = torch.autograd.grad(final_state, h0, problem.state_grad)
    got = {"final_state": final_state, "d_initial_state": dh0}
    assert_close(got, {n: want[n] for n in got}, problem)


# 2. gradcheck in float64.


@target
@each_case
def test_gradcheck(spec, case, target):
    problem = draw(spec, case, 2, 5, target)
    named, asked = dict(problem.inputs), {}
    if not case.stateless:
        named["initial_state"], asked["return_final_state"] = problem.initial_state, True
    leaves = [x.clone().requires_grad_() for x in named.values()]

    def function(*tensors):
        arguments = dict(zip(named, tensors, strict=True))
        results = spec.op(**arguments, **case.options, **asked, backend=target.backend)
        return [x for x in results if x is not None]

    assert torch.autograd.gradcheck(function, leaves, atol=1e-6, fast_mode=interpreting())


# 4. Two pieces with the state handed over equal one call.


def two_pieces(problem, target, at) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and final state of two calls, cut `at` tokens after where the scan begins."""
    case, spec = problem.case, problem.spec
    T = problem.output_grad.shape[1]
    reverse = case.options.get("reverse", False)
    spans = [(T - at, T), (0, T - at)] if reverse else [(0, at), (at, T)]
    state, outputs = problem.initial_state, []
    for i, j in spans:
        output, state = spec.op(
            **cut(problem, i, j),
            **case.options,
            initial_state=state,
            return_final_state=True,
            backend=target.backend,
        )
        outputs.append(output)
    return torch.cat(outputs[::-1] if reverse else outputs, 1), state


@target
@each_case_with_a_state
def test_two_pieces_equal_one_call(spec, case, target):
    T = long_length(spec, target)
    problem = draw(spec, case, 2, T, target, dtype=single(case))
    want = {n: oracle(problem)[n] for n in ("output", "final_state")}
    for at in (1, T // 2, T - 1):
        output, state = two_pieces(problem, target, at)
        got = {"output": output, "final_state": state}
        assert_close(got, want, problem)


@target
@each_case_with_a_state
def test_two_pieces_equal_one_call_bit_for_bit(spec, case, target):
    c = spec.exact_cut[target.backend]
    if target.backend == "triton" and target.device == "cpu":
        c = spec.exact_cut.get("interpreter", c)
    problem = draw(spec, case, 2, c + 7, target, dtype=case.dtypes[-1])
    whole = run(problem, target)
    output, state = two_pieces(problem, target, c)
    assert torch.equal(output, whole["output"])
    assert torch.equal(state, whole["final_state"])


# 5. The step form equals the sequence form.


@pytest.mark.parametrize(
    ("spec", "case", "dtype"), [param for param in DTYPES if not param.values[1].stateless]
)
def test_steps_equal_the_sequence(spec, case, dtype):
    problem = Problem.draw(spec, case, 2, 7, case.odd, dtype=dtype)
    options = {n: v for n, v in case.options.items() if n != "reverse"}
    order = range(6, -1, -1) if case.options.get("reverse") else range(7)
    state, outputs = problem.initial_state, {}
    for t in order:
        outputs[t], state = spec.step(**cut(problem, t, t + 1), **options, state=state)
        assert outputs[t].dtype == dtype
        assert state.dtype == problem.initial_state.dtype
    got = {"output": torch.cat([outputs[t] for t in range(7)], 1), "final_state": state}
    want = oracle(problem)
    assert_close(got, {n: want[n] for n in got}, problem)


# 6. Causality: what comes later in the scan changes nothing before it.


@target
@each_case_with_a_state
def test_causality(spec, case, target):
    T = long_length(spec, target)
    problem = draw(spec, case, 2, T, target, dtype=single(case))
    before = run(problem, target)["output"]
    reverse = case.options.get("reverse", False)
    for t in (0, 1, T // 2, T - 1):
        other = draw(spec, case, 2, T, target, dtype=single(case), seed=1)
        mixed = {n: x.clone() for n, x in problem.inputs.items()}
        for n in mixed.keys() - case.constants:
            case.tokens(mixed, t, t + 1)[n].copy_(case.tokens(other.inputs, t, t + 1)[n])
        after = run(replace(problem, inputs=mixed), target)["output"]
        unchanged = slice(t + 1, None) if reverse else slice(0, t)
        assert torch.equal(after[:, unchanged], before[:, unchanged])
        assert not torch.equal(after[:, t], before[:, t])


# 7. Lengths around the tiles, and none at all; sizes that are no power of two.


@target
@each_case
def test_lengths(spec, case, target):
    lengths = {0, 1, 2, 7, *(n + d for n in tile_lengths(spec, *target) for d in (-1, 0, 1))}
    for T in sorted(lengths):
        problem = draw(spec, case, 2, T, target, dtype=single(case))
        got, want = run(problem, target), oracle(problem)
        assert_close(got, want, problem)
        if T == 0 and not case.stateless:
            assert torch.equal(got["final_state"], problem.initial_state)


@target
@each_case
def test_no_batch(spec, case, target):
    problem = draw(spec, case, 0, 3, target, dtype=single(case))
    assert {n: x.shape for n, x in run(problem, target).items()} == {
        n: x.shape for n, x in oracle(problem).items()
    }


# 8. Strided and sliced inputs.


@target
@each_case
def test_strided_inputs(spec, case, target):
    problem = draw(spec, case, 2, 7, target, dtype=single(case))
    want = run(problem, target)

    def strided(x):
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), float("nan")).to(x)
        wide[..., 1::2] = x
        return wide[..., 1::2]

    def transposed(x):
        return x.transpose(0, -1).contiguous().transpose(0, -1)

    def expanded(x):
        return x[:1].expand_as(x)

    state = ("initial_state", "state_grad") if not case.stateless else ()
    for change in (strided, transposed):
        changed = replace(
            problem,
            inputs={n: change(x) for n, x in problem.inputs.items()},
            **{n: change(getattr(problem, n)) for n in ("output_grad", *state)},
        )
        got = run(changed, target)
        assert all(torch.equal(got[n], want[n]) for n in want)
    same = replace(problem, inputs={n: expanded(x) for n, x in problem.inputs.items()})
    assert_close(run(same, target), oracle(same), same)


# 9. Extreme values.


@target
@pytest.mark.parametrize(("spec", "case", "name"), EXTREMES)
def test_extremes(spec, case, name, target):
    T, change = long_length(spec, target), case.extremes[name]
    problem = draw(spec, case, 2, T, target, dtype=single(case), change=change)
    assert_close(run(problem, target), oracle(problem), problem, case.extreme_bounds.get(name))


@target
@each_case
def test_nan_passes_through(spec, case, target):
    T = 5
    problem = draw(spec, case, 2, T, target, dtype=single(case))
    reverse = case.options.get("reverse", False)
    seen = slice(0, 3) if reverse else slice(2, T)
    for name in problem.inputs:
        spoilt = {n: x.clone() for n, x in problem.inputs.items()}
        case.tokens(spoilt, 2, 3)[name][0].fill_(float("nan"))
        if name in case.checked and target.device == "cpu":
            with pytest.raises(ValueError, match=f"{name} must .* got nan"):
                run(replace(problem, inputs=spoilt), target)
            continue
        output = run(replace(problem, inputs=spoilt), target)["output"]
        if name in case.constants:
            assert output.isnan().any((1, 2)).all(), f"a NaN in {name} vanished"
            continue
        assert output[0, seen].isnan().any(-1).any(), f"a NaN in {name} vanished"
        assert not output[1].isnan().any(), f"a NaN in {name} reached another sequence"
        if case.stateless or target.backend in spec.spoils_chunks:
            continue
        clean = slice(3, T) if reverse else slice(0, 2)
        assert not output[0, clean].isnan().any(), f"a NaN in {name} reached earlier steps"


# 10. Two runs are identical.


@target
@each_case
def test_two_runs_identical(spec, case, target):
    problem = draw(spec, case, 2, long_length(spec, target), target, dtype=single(case))
    first, second = run(problem, target), run(problem, target)
    assert all(torch.equal(first[n], second[n]) for n in first)


# 11. The operators are registered properly and compile.


class _Record(TorchDispatchMode):
    """Keeps the arguments of every operator of this library."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "seqlib":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@target
@each_case
@pytest.mark.no_fence
def test_opcheck(spec, case, target):
    record = _Record()
    problems = [
        draw(spec, case, 2, 3, target, dtype=single(case)),
        draw(spec, case, 1, 3, target, dtype=single(case), lengths=(2, 1), initial_state=False),
    ]
    with record:
        for problem in problems:
            run(problem, target)
    assert len(record.calls) >= 4, "forward and backward should be operators"
    for func, *arguments in record.calls:
        # Gradients are the business of the autograd.Function around the operators.
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
        torch.library.opcheck(func, args, kwargs)


@target
@each_case
@pytest.mark.no_fence
# torch.compile itself makes an instance of autograd.Function while tracing one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_to_one_dynamic_graph(spec, case, target):
    torch.compiler.reset()

    def call(*args, **kwargs):
        return spec.op(*args, **kwargs)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for T in (5, 9):
            problem = draw(spec, case, 2, T, target, dtype=single(case))
            got = solve(compiled, problem, backend=target.backend)
            want = run(problem, target)
            assert all(torch.equal(got[n], want[n]) for n in want)


# 12. Bad input gives the documented error, and names the argument.

BAD_BOUNDS = {
    "not from 0": ([1, 5], ValueError, "cu_seqlens must start at 0, got 1"),
    "decreasing": ([0, 4, 3, 5], ValueError, "cu_seqlens must not decrease, got 4 then 3"),
    "short": ([0, 4], ValueError, "cu_seqlens must end at T=5, got 4"),
    "long": ([0, 6], ValueError, "cu_seqlens must end at T=5, got 6"),
    "empty": ([], ValueError, r"cu_seqlens must have shape \(N\+1,\)"),
    "no end": ([0], ValueError, r"cu_seqlens must have shape \(N\+1,\) .* got \(1,\)"),
    "matrix": ([[0, 5]], ValueError, r"cu_seqlens must have shape .* got \(1, 2\)"),
}
each_spec = pytest.mark.parametrize("spec", testing.SPECS, ids=lambda spec: spec.name)


@target
@each_spec
@pytest.mark.parametrize(("bounds", "error", "message"), BAD_BOUNDS.values(), ids=BAD_BOUNDS)
def test_bad_boundaries(spec, bounds, error, message, target):
    problem = draw(spec, spec.cases[0], 1, 5, target)
    cu_seqlens = torch.tensor(bounds, dtype=torch.int64, device=target.device)
    for backend in (target.backend, "reference"):
        with pytest.raises(error, match=message):
            spec.op(
                **problem.inputs,
                **problem.case.options,
                cu_seqlens=cu_seqlens,
                backend=backend,
            )


@target
@each_spec
def test_boundaries_changed_in_place_are_checked_again(spec, target):
    problem = draw(spec, spec.cases[0], 1, 5, target, lengths=(2, 3))
    run(problem, target)
    problem.cu_seqlens[1] = 7
    with pytest.raises(ValueError, match="cu_seqlens must not decrease"):
        run(problem, target)


@each_spec
def test_bad_kinds_of_boundaries(spec):
    one, two = (
        {**Problem.draw(spec, spec.cases[0], B, 5).inputs, **spec.cases[0].options} for B in (1, 2)
    )
    bounds = torch.tensor([0, 5])
    with pytest.raises(TypeError, match="cu_seqlens must be a tensor, got list"):
        spec.op(**one, cu_seqlens=[0, 5])
    for wrong in (bounds.float(), bounds.bool(), bounds.short()):
        with pytest.raises(TypeError, match="cu_seqlens must be int32 or int64"):
            spec.op(**one, cu_seqlens=wrong)
    with pytest.raises(ValueError, match="cu_seqlens must be on the device of the inputs"):
        spec.op(**one, cu_seqlens=bounds.to("meta"))
    with pytest.raises(ValueError, match=r"cu_seqlens needs a batch size of 1 .* got B=2"):
        spec.op(**two, cu_seqlens=bounds)


@each_case
def test_bad_tensors(spec, case):
    inputs = Problem.draw(spec, case, 2, 5).inputs
    for name, x in inputs.items():
        changes = {
            "list": (x.tolist(), TypeError),
            "int": (x.real.int(), (TypeError, ValueError)),
            "rank": (x[..., None], ValueError),
            "size": (x[1:], ValueError),
            "time": (x[:, 1:] if x.ndim > 1 else x[:, None], ValueError),
            "device": (x.to("meta"), ValueError),
        }
        if inputs.keys() - case.constants == {name}:  # the one that says how many tokens there are
            del changes["size"], changes["time"]
        for kind, (wrong, error) in changes.items():
            with pytest.raises(error) as caught:
                spec.op(**{**inputs, name: wrong}, **case.options)
            blamed = {name} if kind in ("list", "rank") else set(inputs)
            assert any(str(caught.value).startswith(f"{n} must") for n in blamed), caught.value


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize(("spec", "case", "dtype"), DTYPES)
def test_kernels_use_rows_that_the_self_check_tries(spec, case, dtype, target, monkeypatch):
    problem = draw(spec, case, 1, 3, target, dtype=dtype)
    pick, used = spec.launch.pick, []
    monkeypatch.setattr(spec.launch, "pick", lambda *args: used.append(pick(*args)) or used[-1])
    run(problem, target)
    tried = testing.launches(spec, "triton", torch.device(target.device), dtype)
    assert used or case is not spec.cases[0]  # others may be made of other families' ops
    assert all(row in tried for row in used)


@pytest.mark.gpu
@each_case
def test_refused_on_gpu(spec, case):
    for dtype in spec.refused_on_gpu:
        problem = Problem.draw(spec, case, 2, 5, dtype=dtype, device="cuda")
        with pytest.raises(TypeError, match=f"must not be {str(dtype)[6:]} on a GPU"):
            solve(spec.op, problem, backend="triton")
        reference = solve(spec.op, problem, backend="reference")
        assert_close(reference, oracle(problem), problem)


@each_case_with_a_state
def test_bad_initial_state(spec, case):
    problem = Problem.draw(spec, case, 2, 5)
    state = problem.initial_state
    for wrong, error in (
        (state.tolist(), TypeError),
        (state[:1], ValueError),
        (state[..., 1:], ValueError),
        (state[0], ValueError),
        (state.real.to(torch.float16), TypeError),
        (state.to("meta"), ValueError),
    ):
        with pytest.raises(error, match="initial_state must"):
            spec.op(**problem.inputs, **case.options, initial_state=wrong)
    packed = Problem.draw(spec, case, 1, 5, lengths=(2, 2, 1))
    with pytest.raises(ValueError, match=r"initial_state must .* N(seq)?=3"):
        spec.op(
            **packed.inputs,
            **case.options,
            cu_seqlens=packed.cu_seqlens,
            initial_state=packed.initial_state[:1],
        )


# Packed sequences.


@target
@each_case
def test_packed_equals_separate_calls(spec, case, target):
    lengths = (3, 0, 1, min(tile_lengths(spec, *target)) + 2)
    dtype = single(case)
    problem = draw(spec, case, 1, sum(lengths), target, dtype=dtype, lengths=lengths)
    got = run(problem, target)
    assert_close(got, oracle(problem), problem)
    start = 0
    for n, length in enumerate(lengths):
        handed = {}
        if not case.stateless:
            h0 = problem.initial_state[n : n + 1]
            handed = {"initial_state": h0, "return_final_state": True}
        output, state = spec.op(
            **cut(problem, start, start + length),
            **case.options,
            **handed,
            backend=target.backend,
        )
        assert torch.equal(output, got["output"][:, start : start + length])
        assert case.stateless or torch.equal(state, got["final_state"][n : n + 1])
        start += length


@target
@each_case
def test_packed_int32_without_state(spec, case, target):
    problem = draw(
        spec, case, 1, 5, target, dtype=single(case), lengths=(2, 3), initial_state=False
    )
    problem = replace(problem, cu_seqlens=problem.cu_seqlens.int())
    assert_close(run(problem, target), oracle(problem), problem)


# The reference as a backend, and every launch row.


@each_case
def test_reference_backend(spec, case):
    for dtype in case.dtypes:
        problem = Problem.draw(spec, case, 2, 5, case.odd, dtype=dtype)
        got = solve(spec.op, problem, backend="reference")
        assert_close(got, oracle(problem), problem)


LAUNCHES = [
    pytest.param(spec, row, id=f"{spec.name}: {i}")
    for spec in testing.SPECS
    if spec.launch is not None
    for i, row in enumerate(spec.launch.rows)
    if interpreting() == (row.arch == "interpreter")
]


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize(("spec", "row"), LAUNCHES)
def test_launch_rows(spec, row, target):
    with spec.launch.forced(row):
        for case in spec.cases:
            problem = draw(
                spec, case, 1, long_length(spec, target), target, dims=case.odd, dtype=single(case)
            )
            assert_close(run(problem, target), oracle(problem), problem)
