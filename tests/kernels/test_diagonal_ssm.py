# SPDX-License-Identifier: Apache-2.0
"""What diagonal_ssm adds to the checks of every family: golden layers, modes, directions, edges."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from seqlib_kernels._core import threads
from seqlib_kernels.ssm.diagonal import chunked, modes
from seqlib_kernels.ssm.diagonal.op import diagonal_ssm
from seqlib_kernels.ssm.diagonal.spec import SPEC
from seqlib_kernels.ssm.diagonal.step import diagonal_ssm_step
from seqlib_kernels.ssm.kernel import ssm_kernel
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("fenced_memory")

GOLDEN = Path(__file__).parents[1] / "golden" / "ssm"
F64 = torch.float64
FILES = ["s4d_zoh_lin", "s4d_bilinear_inv", "s4d_zoh_legs_bidir", "s4d_zoh_lin_tied_rate"]
WITH_STATES = ["s4d_zoh_lin", "s4d_bilinear_inv"]
CASES = {case.name: case for case in SPEC.cases}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
FORMS = [
    pytest.param({"backend": "reference"}, id="reference"),
    *(
        pytest.param({"backend": "cpu", "mode": mode}, id=mode)
        for mode in ("recurrent", "chunked", "convolution")
    ),
    pytest.param({"backend": "triton"}, id="interpreted", marks=pytest.mark.interpret),
]
each_form = pytest.mark.parametrize("form", FORMS)
fast_form = pytest.mark.parametrize("form", FORMS[1:])
other_form = pytest.mark.parametrize("form", FORMS[2:4])


# Golden layers.


def load(name):
    """The arrays of a file as tensors, its parameters apart, and the options of the call."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    options = {
        "discretization": str(arrays["disc"]),
        "rate": float(arrays["rate"]),
        "bidirectional": bool(arrays["bidirectional"]),
    }
    tensors = {n: torch.from_numpy(x) for n, x in arrays.items() if x.ndim}
    transform = {"exp": torch.exp, "softplus": functional.softplus}[str(arrays["dt_transform"])]
    parameters = {n: x for n, x in tensors.items() if n.startswith("param_")}
    return tensors, parameters, transform, options


def arguments(p, transform, options):
    C = p["param_C"]
    return {
        "A": torch.stack((-p["param_A_real"].exp(), -p["param_A_imag"]), -1),
        "B": p["param_B"][0],
        "C": C if options["bidirectional"] else C[0],
        "dt": transform(p["param_inv_dt"][:, 0]),
        "D": p["param_D"][0],
    }


def assert_near(got, want, bound):
    assert (got - want).abs().max() <= bound * want.abs().max()


# Measured, worst of all files and forms: outputs 3e-15, gradients 5e-14.
@each_form
@pytest.mark.parametrize("name", FILES)
def test_golden_outputs_and_gradients(name, form):
    g, parameters, transform, options = load(name)
    leaves = {n: x.clone().requires_grad_() for n, x in parameters.items()}
    u = g["u"].clone().requires_grad_()
    y, _ = diagonal_ssm(u.mT, **arguments(leaves, transform, options), **options, **form)
    assert_near(y.mT, g["y"], 1e-10)
    grads = torch.autograd.grad((y.mT * g["cotangent"]).sum(), (u, *leaves.values()))
    assert_near(grads[0], g["grad_u"], 1e-9)
    for leaf, grad in zip(leaves, grads[1:], strict=True):
        assert_near(grad, g[leaf.replace("param", "grad")], 1e-9)


@each_form
@pytest.mark.parametrize("name", WITH_STATES)
def test_golden_states(name, form):
    g, parameters, transform, options = load(name)
    model = arguments(parameters, transform, options)
    state = g["state_in"]  # complex: it serves as well as pairs
    y, final = diagonal_ssm(
        g["u"].mT, **model, **options, initial_state=state, return_final_state=True, **form
    )
    assert_near(y.mT, g["y_with_state"], 1e-10)
    assert_near(torch.view_as_complex(final), g["state_out"], 1e-10)


@pytest.mark.parametrize("name", WITH_STATES)
def test_golden_steps(name):
    g, parameters, transform, options = load(name)
    model = arguments(parameters, transform, options)
    del options["bidirectional"]
    state = torch.zeros_like(torch.view_as_real(g["state_in"]))
    for t in range(g["step_y"].shape[2]):
        y, state = diagonal_ssm_step(g["u"].mT[:, t : t + 1], **model, **options, state=state)
        assert_near(y[:, 0], g["step_y"][..., t], 1e-10)
    assert_near(torch.view_as_complex(state), g["step_state_after"], 1e-10)


# Modes.


# Measured, worst of outputs, states and gradients in eps: float64 17, float32 5, bfloat16 0.6.
@other_form
@each_case
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [1, chunked.CHUNK - 1, chunked.CHUNK, 2 * chunked.CHUNK + 3])
def test_modes_agree_with_the_definition(form, case, dtype, T):
    problem = Problem.draw(SPEC, case, 2, T, case.odd, dtype=dtype)
    found = errors(solve(diagonal_ssm, problem, **form), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[dtype], found


@other_form
@each_case
def test_modes_with_packed_sequences(form, case):
    for lengths in ((3, 0, 1, 70), (0, 5), (5, 0, 0)):
        problem = Problem.draw(
            SPEC, case, 1, sum(lengths), case.odd, dtype=torch.float32, lengths=lengths
        )
        found = errors(solve(diagonal_ssm, problem, **form), oracle(problem), problem)
        assert max(found.values()) <= SPEC.tolerance[torch.float32], found


@other_form
@each_case
def test_modes_of_no_length(form, case):
    problem = Problem.draw(SPEC, case, 2, 0, case.odd)
    got = solve(diagonal_ssm, problem, **form)
    assert got["output"].shape == (2, 0, 6)
    assert torch.equal(got["final_state"], problem.initial_state)
    assert torch.equal(got["d_initial_state"], problem.state_grad)


@other_form
@pytest.mark.no_fence
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_modes_compile_to_one_dynamic_graph(form):
    torch.compiler.reset()
    case = CASES["zoh"]

    def call(*args, **kwargs):
        return diagonal_ssm(*args, **kwargs)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for T in (5, 9, 80):
            problem = Problem.draw(SPEC, case, 2, T, dtype=torch.float32)
            got = solve(compiled, problem, **form)
            want = solve(diagonal_ssm, problem, **form)
            assert all(torch.equal(got[n], want[n]) for n in want)


@pytest.mark.no_fence
def test_chunked_operators_are_registered_properly():
    H, M = 3, 2
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 5)
    a, b, c = (torch.randn(H, M, 2, dtype=F64) / 4 for _ in range(3))
    u, h0 = problem.inputs["u"], problem.initial_state
    ops = torch.ops.seqlib
    for reverse in (False, True):
        given = (u, a, b, c, None, h0, None)
        torch.library.opcheck(ops.diagonal_ssm_fwd.default, (*given, reverse, "chunked", True))
        _, hT, states = ops.diagonal_ssm_fwd(*given, reverse, "chunked", True)
        torch.library.opcheck(
            ops.diagonal_ssm_bwd.default, (u, hT, *given, states, reverse, "chunked")
        )


def test_auto_is_one_of_the_modes():
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 70, dtype=torch.float32)
    auto = solve(diagonal_ssm, problem, backend="cpu")
    engine = modes.choose("auto", "cpu", problem.inputs["u"], 2)
    mode = {"cpu": "recurrent"}.get(engine, engine)
    same = solve(diagonal_ssm, problem, backend="cpu", mode=mode)
    assert all(torch.equal(auto[n], same[n]) for n in auto)


# Directions.


def both_ways(B=2, T=37, H=5, M=3, dtype=F64, seed=0):
    """Arguments of a bidirectional call."""
    case = CASES["zoh"]
    inputs = case.make(B, T, {"H": H, "M": M}, torch.Generator().manual_seed(seed))
    other = case.make(1, 1, {"H": H, "M": M}, torch.Generator().manual_seed(seed + 1))
    inputs["C"] = torch.stack((inputs["C"], other["C"]))
    return {n: x.to(dtype) for n, x in inputs.items()}


@each_form
@pytest.mark.parametrize("T", [1, 2, 37, 70])
def test_both_directions_are_two_kernels(form, T):
    """y_t = sum_j K0_j u_{t-j} + sum_j K1_j u_{t+1+j} + D u_t"""
    inputs = both_ways(T=T)
    y, state = diagonal_ssm(**inputs, bidirectional=True, **form)
    K = ssm_kernel(inputs["A"], inputs["B"], inputs["C"], inputs["dt"], T)
    t = torch.arange(T)
    lag = t[:, None] - t
    weights = torch.where(lag >= 0, K[0][:, lag.clamp(min=0)], K[1][:, (-lag - 1).clamp(min=0)])
    want = torch.einsum("hts,bsh->bth", weights, inputs["u"]) + inputs["D"] * inputs["u"]
    assert_near(y, want, 1e-13)
    assert state is None


@fast_form
def test_gradients_of_both_directions(form):
    inputs = both_ways(T=40)

    def gradients(**options):
        leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
        y, _ = diagonal_ssm(**leaves, bidirectional=True, **options)
        generator = torch.Generator().manual_seed(1)
        dy = torch.randn(y.shape, dtype=F64, generator=generator)
        return dict(zip(leaves, torch.autograd.grad(y, tuple(leaves.values()), dy), strict=True))

    got, want = gradients(**form), gradients(backend="reference")
    for name in want:
        assert_near(got[name], want[name], 1e-12)


@each_form
def test_both_directions_in_packed_sequences(form):
    lengths = (0, 3, 0, 40, 1, 0)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    inputs = both_ways(B=1, T=sum(lengths))
    u = inputs.pop("u")
    y, _ = diagonal_ssm(u, **inputs, bidirectional=True, cu_seqlens=bounds, **form)
    for start, stop in pairwise(bounds.tolist()):
        alone, _ = diagonal_ssm(u[:, start:stop], **inputs, bidirectional=True, **form)
        torch.testing.assert_close(y[:, start:stop], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.no_fence
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("packed", [False, True])
def test_both_directions_compile(packed):
    torch.compiler.reset()
    compiled = torch.compile(diagonal_ssm, fullgraph=True, dynamic=True, backend="aot_eager")
    for T in (5, 9):
        inputs = both_ways(B=1, T=T)
        cu_seqlens = torch.tensor([0, 2, T]) if packed else None
        options = {"bidirectional": True, "cu_seqlens": cu_seqlens}
        y, _ = compiled(**inputs, **options)
        assert torch.equal(y, diagonal_ssm(**inputs, **options)[0])


# The recurrence on CPUs: blocks of channels, groups of sequences, threads.


@pytest.mark.parametrize(("B", "H", "M"), [(9, 70, 3), (1, 130, 5), (17, 3, 9), (2, 1, 1)])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_blocks_and_groups(B, H, M, dtype):
    problem = Problem.draw(SPEC, CASES["zoh"], B, 35, {"H": H, "M": M}, dtype=dtype)
    found = errors(solve(diagonal_ssm, problem, backend="cpu"), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[dtype], found


def test_results_do_not_depend_on_threads(monkeypatch):
    problem = Problem.draw(SPEC, CASES["zoh"], 9, 40, {"H": 70, "M": 3}, dtype=torch.float32)
    results = []
    for count in (1, 2, 7):
        monkeypatch.setattr(threads, "count", lambda *_, count=count: count)
        results.append(solve(diagonal_ssm, problem, backend="cpu", mode="recurrent"))
    for other in results[1:]:
        assert all(torch.equal(other[n], results[0][n]) for n in other)


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-12, 1e-6])
@pytest.mark.parametrize("name", ["B", "C"])
def test_weights_far_below_the_state(name, scale):
    """Inside a piece states are divided by b, and their gradients by c: also where these vanish."""
    case = CASES["zoh"]
    problem = Problem.draw(
        SPEC, case, 2, 40, dtype=torch.float32, change=lambda x: {**x, name: scale * x[name]}
    )
    found = errors(solve(diagonal_ssm, problem, backend="cpu"), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[torch.float32], found


def test_a_vanishing_multiplier():
    """bilinear with dt A = -2 forgets in one step."""

    def change(inputs):
        A = torch.tensor((-20.0, 0.0), dtype=F64).expand_as(inputs["A"])
        return {**inputs, "A": A, "dt": torch.full_like(inputs["dt"], 0.2)}

    problem = Problem.draw(SPEC, CASES["bilinear"], 2, 70, change=change)
    for mode in ("recurrent", "chunked", "convolution"):
        found = errors(
            solve(diagonal_ssm, problem, backend="cpu", mode=mode), oracle(problem), problem
        )
        assert max(found.values()) <= SPEC.tolerance[F64], found


# Precision over long sequences.


def legs(H):
    """LegS with n = 64, phases 1 of its weights, and step sizes from 1e-4 to 1e-1."""
    root = np.sqrt(2 * np.arange(64) + 1.0)
    skew = np.tril(-np.outer(root, root) / 2, -1)
    w, V = np.linalg.eigh(-1j * (skew - skew.T))
    kept = w > 0
    weight = np.abs(V.conj().T @ root)[kept]
    generator = torch.Generator().manual_seed(0)
    return {
        "A": torch.tensor(np.stack((np.full(32, -0.5), w[kept]), -1))[None],
        "B": torch.tensor(np.stack((weight, 0 * weight), -1))[None],
        "C": torch.randn(H, 32, 2, dtype=F64, generator=generator),
        "dt": torch.logspace(-4, -1, H, dtype=F64),
    }


def worst_channel(got, want):
    """The largest error of a channel, relative to its largest value; channels are axis 1."""
    error, size = ((x.abs().flatten(2).amax((0, 2))) for x in (got - want, want))
    return (error / size).max().item()


# Measured against the convolution in float64, outputs and states: recurrent 9e-6 and 1.6e-5, where
# every step rounds a state that lasts as long as the sequence; the others 5e-7 and 8e-7.
@fast_form
def test_long_sequences(form):
    T, H = (16384, 16) if form["backend"] == "cpu" else (512, 4)
    inputs = {n: x.float() for n, x in legs(H).items()}
    u = torch.randn(1, T, H, generator=torch.Generator().manual_seed(1))
    y, state = diagonal_ssm(u, **inputs, return_final_state=True, **form)
    exact = {n: x.double() for n, x in inputs.items()}
    want, want_state = diagonal_ssm(
        u.double(), **exact, return_final_state=True, backend="cpu", mode="convolution"
    )
    bound = 2e-6 if form.get("mode") in ("chunked", "convolution") else 3e-5
    assert worst_channel(y.mT, want.mT) < bound
    assert worst_channel(state, want_state) < bound


def test_steps_keep_their_phase():
    """3000 tokens one by one: the multiplier of a step must not be rounded."""
    inputs = {n: x.float() for n, x in legs(4).items()}
    u = torch.randn(1, 3000, 4, generator=torch.Generator().manual_seed(1))
    state = torch.zeros(1, 4, 32, 2)
    outputs = []
    for t in range(3000):
        y, state = diagonal_ssm_step(u[:, t : t + 1], **inputs, state=state)
        outputs.append(y)
    exact = {n: x.double() for n, x in inputs.items()}
    want, _ = diagonal_ssm(u.double(), **exact, backend="cpu", mode="convolution")
    assert rel_err(torch.cat(outputs, 1), want) < 1e-5


@fast_form
@pytest.mark.parametrize("dt", [1e-6, 1e2])
def test_gradients_at_extreme_steps_are_finite(form, dt):
    inputs = legs(4)
    inputs["A"][..., 0] = -1e-4
    leaves = {n: x.float().requires_grad_() for n, x in inputs.items()}
    steps = torch.full((4,), dt).log().requires_grad_()
    u = torch.randn(1, 200, 4, requires_grad=True)
    y, _ = diagonal_ssm(u, **{**leaves, "dt": steps.exp()}, **form)
    grads = torch.autograd.grad(
        y.square().mean(), (u, steps, leaves["A"], leaves["B"], leaves["C"])
    )
    assert all(g.isfinite().all() for g in grads)


# Options and bad input.


def test_rate_multiplies_the_steps():
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 9)
    inputs = dict(problem.inputs)
    fine, _ = diagonal_ssm(**inputs, rate=0.5)
    inputs["dt"] = inputs["dt"] / 2
    assert torch.equal(fine, diagonal_ssm(**inputs)[0])


def test_complex_arguments():
    problem = Problem.draw(SPEC, CASES["shared"], 2, 9)
    inputs, state = dict(problem.inputs), problem.initial_state
    want = diagonal_ssm(**inputs, initial_state=state, return_final_state=True)
    for name in ("A", "B", "C"):
        inputs[name] = torch.view_as_complex(inputs[name])
    state = torch.view_as_complex(state)
    got = diagonal_ssm(**inputs, initial_state=state, return_final_state=True)
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
    step = {**inputs, "u": inputs["u"][:, :1]}
    y, state = diagonal_ssm_step(**step, state=state)
    assert y.shape == (2, 1, 4)
    assert state.shape == (2, 4, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_parameters_of_higher_precision_than_the_inputs(dtype):
    """Under autocast inputs have 16 bits, parameters keep theirs."""
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 40, dtype=torch.bfloat16)
    inputs = {n: x if n == "u" else x.to(dtype) for n, x in problem.inputs.items()}
    leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
    y, _ = diagonal_ssm(**leaves)
    want, _ = diagonal_ssm(**{n: x.double() for n, x in inputs.items()}, backend="reference")
    assert y.dtype == torch.bfloat16
    assert rel_err(y, want) <= 2 * torch.finfo(torch.bfloat16).eps
    grads = torch.autograd.grad(y.float().sum(), tuple(leaves.values()))
    assert [g.dtype for g in grads] == [x.dtype for x in inputs.values()]


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("function", [diagonal_ssm, diagonal_ssm_step])
def test_bad_steps(value, function):
    problem = Problem.draw(SPEC, CASES["zoh"], 2, 1)
    inputs = {**problem.inputs, "dt": torch.tensor([0.1, value, 0.1], dtype=F64)}
    state = {"state": problem.initial_state} if function is diagonal_ssm_step else {}
    with pytest.raises(ValueError, match=f"dt must be positive and finite, got {value}"):
        function(**inputs, **state)


def test_bad_options():
    inputs = both_ways(T=3)
    one = {**inputs, "C": inputs["C"][0]}
    state = torch.zeros(2, 5, 3, 2, dtype=F64)
    for options in ({"initial_state": state}, {"return_final_state": True}):
        with pytest.raises(ValueError, match="must be left out with bidirectional=True"):
            diagonal_ssm(**inputs, bidirectional=True, **options)
    with pytest.raises(ValueError, match=r"C must have shape \(2, H, M, 2\), got \(5, 3, 2\)"):
        diagonal_ssm(**one, bidirectional=True)
    with pytest.raises(ValueError, match=r"C must have shape \(H, M, 2\)"):
        diagonal_ssm(**inputs)
    with pytest.raises(
        ValueError, match="mode must be one of auto, convolution, chunked, recurrent"
    ):
        diagonal_ssm(**one, mode="fft")
    with pytest.raises(ValueError, match="discretization must be one of"):
        diagonal_ssm(**one, discretization="euler")
    with pytest.raises(ValueError, match="rate must be positive and finite, got 0"):
        diagonal_ssm(**one, rate=0)
    with pytest.raises(ValueError, match=r"A must have a number of copies S that divides H=5"):
        diagonal_ssm(**{**one, "A": one["A"][:2], "B": one["B"][:2]})
    with pytest.raises(ValueError, match=r"u must have shape \(B, T, H\) with T=1 in a step"):
        diagonal_ssm_step(**one, state=state)
    with pytest.raises(ValueError, match=r"state must have shape \(Nseq, H, M, 2\) with Nseq=2"):
        diagonal_ssm_step(**{**one, "u": one["u"][:, :1]}, state=state[:1])
