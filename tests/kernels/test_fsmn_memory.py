# SPDX-License-Identifier: Apache-2.0
"""What the FSMN memory adds to the checks of every family: golden vectors, pitfalls, errors."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from seqlib_kernels import fsmn_memory, fsmn_memory_step
from seqlib_kernels._core import threads
from seqlib_kernels.fsmn.memory.cpu_rows import LANES, TILE
from seqlib_kernels.fsmn.memory.spec import SPEC
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

GOLDEN = Path(__file__).parents[1] / "golden" / "mossformer2"
REFERENCE = pytest.param("reference", id="reference")
CPU = pytest.param("cpu", id="cpu")
TRITON = pytest.param("triton", id="interpreted", marks=pytest.mark.interpret)
every_backend = pytest.mark.parametrize("backend", [REFERENCE, CPU, TRITON])
CASES = {case.name: case for case in SPEC.cases}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def check(problem, backend="cpu"):
    found = errors(solve(SPEC.op, problem, backend=backend), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[problem.dtype], found


# Golden vectors: the modules around the op in plain torch, gradients of everything.


def golden(name, dtype):
    """The arrays in `dtype`, weights as leaves that want gradients."""
    arrays = {n: x.to(dtype) for n, x in load_file(GOLDEN / f"{name}.safetensors").items()}
    weights = {n[2:]: x.requires_grad_() for n, x in arrays.items() if n.startswith("w.")}
    return arrays, weights, arrays["in.x"].requires_grad_()


# Golden gradients of weights are rounded to float32.
DTYPES = pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)], ids=["float64", "float32"]
)
ROUNDED = 1e-7


@every_backend
@DTYPES
def test_golden_plain_memory(backend, dtype, bound):
    arrays, w, x = golden("fsmn_plain_lorder20", dtype)
    projected = F.relu(x @ w["linear.weight"].T + w["linear.bias"]) @ w["project.weight"].T
    y = x + fsmn_memory(projected, w["conv1.weight"], backend=backend)[0]
    assert rel_err(y, arrays["out.y"], time=None) <= bound
    grads = torch.autograd.grad(y, (x, *w.values()), arrays["ct.y"])
    assert rel_err(grads[0], arrays["gin.x"], time=None) <= bound
    for name, got in zip(w, grads[1:], strict=True):
        assert rel_err(got, arrays[f"gw.{name}"], time=None) <= max(bound, ROUNDED), name


@every_backend
@DTYPES
def test_golden_projections_and_memory(backend, dtype, bound):
    """The gated unit: two convolutions of 17 taps behind bias and SiLU, one of 39 without."""
    arrays, w, x = golden("gcu_plain", dtype)

    def projection(name):
        z = F.layer_norm(x, x.shape[-1:], w[f"{name}.mdl.0.weight"], w[f"{name}.mdl.0.bias"])
        z = z @ w[f"{name}.mdl.1.weight"].T
        taps, bias = w[f"{name}.mdl.3.sequential.1.conv.weight"], w[f"{name}.mdl.1.bias"]
        return fsmn_memory(z, taps, bias, activation="silu", backend=backend)[0]

    u, v = projection("to_u"), projection("to_v")
    assert rel_err(u, arrays["out.u"], time=None) <= bound
    p = F.relu(u @ w["fsmn.linear.weight"].T + w["fsmn.linear.bias"]) @ w["fsmn.project.weight"].T
    y = v * (u + fsmn_memory(p, w["fsmn.conv1.weight"], backend=backend)[0]) + x
    assert rel_err(y, arrays["out.y"], time=None) <= bound
    grads = torch.autograd.grad(y, (x, *w.values()), arrays["ct.y"])
    assert rel_err(grads[0], arrays["gin.x"], time=None) <= bound
    for name, got in zip(w, grads[1:], strict=True):
        assert rel_err(got, arrays[f"gw.{name}"], time=None) <= max(bound, ROUNDED), name


# The definition, against torch's convolution.


@every_backend
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("J", "dilation"), [(1, 1), (1, 3), (3, 1), (2, 4)])
def test_equals_a_grouped_convolution(backend, J, dilation, causal):
    C, W, T = 4, 5, 23
    x, weight = draw(2, T, J * C), draw(C, J, W, seed=1)
    span = dilation * (W - 1)
    around = (span, 0) if causal else (span // 2, span // 2)
    want = F.conv1d(F.pad(x.mT, around), weight, dilation=dilation, groups=C).mT
    options = {"dilation": dilation, "causal": causal, "residual": False, "backend": backend}
    got, _ = fsmn_memory(x, weight, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if J == 1:
        got, _ = fsmn_memory(x, weight, **options | {"residual": True})
        torch.testing.assert_close(got, want + x, rtol=1e-12, atol=1e-12)


@every_backend
def test_padding_comes_after_the_activation(backend):
    """silu(bias) is far from 0, but rows outside of a sequence are 0."""
    x, weight, bias = torch.zeros(1, 7, 2), torch.ones(2, 3), torch.full((2,), 5.0)
    inside = F.silu(bias)
    options = {"activation": "silu", "residual": False, "backend": backend}
    y, _ = fsmn_memory(x, weight, bias, **options)
    torch.testing.assert_close(y[0, 3], 3 * inside)
    torch.testing.assert_close(y[0, 0], 2 * inside)
    packed, _ = fsmn_memory(x, weight, bias, cu_seqlens=torch.tensor([0, 1, 7]), **options)
    torch.testing.assert_close(packed[0, 0], inside)
    torch.testing.assert_close(packed[0, 1], 2 * inside)


@every_backend
def test_layouts_of_the_weight(backend):
    x, weight = draw(2, 9, 4), draw(4, 5, seed=1)
    want, _ = fsmn_memory(x, weight, backend=backend)
    for layout in (weight[:, None], weight[:, None, :, None]):
        layout = layout.clone().requires_grad_()
        got, _ = fsmn_memory(x, layout, backend=backend)
        assert torch.equal(got, want)
        (gradient,) = torch.autograd.grad(got.sum(), layout)
        assert gradient.shape == layout.shape


@every_backend
@pytest.mark.parametrize("left_out", ["bias", "scale", "both"])
def test_optional_arguments(backend, left_out):
    problem = Problem.draw(SPEC, CASES["causal"], 2, 5, dtype=torch.float32)
    names = ("bias", "scale") if left_out == "both" else (left_out,)
    for name in names:
        problem.inputs.pop(name)
    check(problem, backend)


# Triton's interpreter cuts numbers off where a GPU rounds them.
@pytest.mark.parametrize("backend", [REFERENCE, CPU])
def test_parameters_in_float32_beside_16_bits(backend):
    """Rounded to 16 bits first, they would be off by far more."""
    x, weight, scale = draw(1, 9, 4).bfloat16(), draw(4, 3, seed=1).float(), draw(1, 9).float()
    got, _ = fsmn_memory(x, weight, scale=scale, backend=backend)
    want, _ = fsmn_memory(x.double(), weight.double(), scale=scale.double())
    assert torch.equal(got, want.bfloat16())


# Sizes.


@pytest.mark.parametrize("T", [TILE - 1, TILE, TILE + 1, 3 * TILE + 5])
@pytest.mark.parametrize(
    "dims",
    [
        {"C": 1, "J": 1, "W": 1},
        {"C": LANES - 1, "J": 1, "W": 17},
        {"C": LANES + 17, "J": 2, "W": 3},
        {"C": 2 * LANES + 1, "J": 1, "W": 5},
        {"C": 2, "J": 1, "W": 2 * TILE + 15},
    ],
    ids=str,
)
@pytest.mark.parametrize("case", ["projection", "causal", "grouped", "causal, grouped"])
def test_sizes(case, dims, T):
    if "grouped" not in case:
        dims = {**dims, "J": 1}
    check(Problem.draw(SPEC, CASES[case], 2, T, dims, dtype=torch.float32))


@pytest.mark.interpret
@pytest.mark.parametrize("case", ["projection", "causal", "grouped", "causal, grouped"])
@pytest.mark.parametrize("dims", [{"C": 9, "J": 1, "W": 1}, {"C": 17, "J": 1, "W": 39}], ids=str)
def test_sizes_interpreted(case, dims):
    check(Problem.draw(SPEC, CASES[case], 1, 19, dims, dtype=torch.float32), "triton")


@every_backend
@pytest.mark.parametrize(
    "shape", [(0, 5, 4), (2, 0, 4), (2, 5, 0)], ids=["no batch", "no steps", "no channels"]
)
def test_empty(backend, shape):
    x, weight = torch.ones(shape, requires_grad=True), torch.ones(shape[2], 3, requires_grad=True)
    y, state = fsmn_memory(x, weight, causal=True, return_final_state=True, backend=backend)
    assert y.shape == shape
    assert state.shape == (shape[0], 2, shape[2])
    dx, dweight = torch.autograd.grad(y.sum() + state.sum(), (x, weight), materialize_grads=True)
    assert dx.shape == shape
    assert torch.equal(dweight, torch.zeros_like(weight))


@every_backend
def test_sequences_shorter_than_the_reach(backend):
    """Taps that only ever see rows outside have no gradient and change nothing."""
    x, weight = draw(1, 3, 2), draw(2, 21, seed=1).requires_grad_()
    y, _ = fsmn_memory(x, weight, dilation=4, backend=backend)
    torch.testing.assert_close(y, x * (1 + weight[:, 10]))
    (gradient,) = torch.autograd.grad(y.sum(), weight)
    assert not gradient[:, :10].any()
    assert not gradient[:, 11:].any()


def test_any_split_hands_the_state_over():
    """On CPUs bit for bit, also where a piece is shorter than the state."""
    problem = Problem.draw(SPEC, CASES["causal"], 2, 35, dtype=torch.float32)
    case, options = problem.case, {**CASES["causal"].options, "return_final_state": True}
    h0 = problem.initial_state
    whole, last = fsmn_memory(**problem.inputs, **options, initial_state=h0)
    for t in range(36):
        a, middle = fsmn_memory(**case.tokens(problem.inputs, 0, t), **options, initial_state=h0)
        rest = case.tokens(problem.inputs, t, 35)
        b, end = fsmn_memory(**rest, **options, initial_state=middle)
        assert torch.equal(torch.cat([a, b], 1), whole)
        assert torch.equal(end, last)


def test_threads_change_nothing(monkeypatch):
    problem = Problem.draw(SPEC, CASES["causal"], 3, 40, {"C": 600, "J": 1, "W": 4})
    counts, count = [], threads.count
    monkeypatch.setattr(threads, "count", lambda *_: counts.append(3) or 3)
    many = solve(SPEC.op, problem)
    monkeypatch.setattr(threads, "count", lambda *_: 1)
    one = solve(SPEC.op, problem)
    assert counts == [3, 3]
    assert count(1 << 40) == torch.get_num_threads()
    assert all(torch.equal(many[n], one[n]) for n in one)


@every_backend
def test_sums_over_many_steps_stay_exact(backend):
    """The gradients of taps and bias, which are sums over all of time."""
    T = 4000 if backend == "cpu" else 300
    problem = Problem.draw(SPEC, CASES["projection"], 1, T, dtype=torch.float32)
    check(problem, backend)


# One step.


def test_step_leaves_the_state_alone():
    x, weight, state = draw(2, 1, 3), draw(3, 4, seed=1), draw(2, 3, 3, seed=2)
    before = state.clone()
    y, after = fsmn_memory_step(x, weight, state=state)
    assert torch.equal(state, before)
    want, last = fsmn_memory(x, weight, causal=True, initial_state=state, return_final_state=True)
    torch.testing.assert_close(y, want)
    assert torch.equal(after, last)
    assert after.untyped_storage().nbytes() == after.nbytes


# Errors.

X = torch.ones(2, 5, 4)
STATE = torch.ones(2, 2, 4)
BAD = {
    "even": ({"weight": torch.ones(4, 4)}, r"weight must have an odd number of taps W.* got W=4"),
    "no taps": ({"weight": torch.ones(4, 0), "causal": True}, "weight must have an odd .* got W=0"),
    "channels": (
        {"weight": torch.ones(3, 3)},
        r"weight must have C outputs of J inputs each, with J\*C=4, .* got \(3, 3\)",
    ),
    "residual": (
        {"weight": torch.ones(2, 2, 3)},
        "weight must have J=1 input per output with residual=True, got J=2",
    ),
    "width": (
        {"weight": torch.ones(4, 1, 3, 2)},
        r"weight must have shape \(C, J, W, 1\) with 1=1",
    ),
    "bias": ({"bias": torch.ones(3)}, r"bias must have shape \(C\) with C=4"),
    "scale": ({"scale": torch.ones(2, 4)}, r"scale must have shape \(B, T\) with T=5"),
    "activation": ({"activation": "relu"}, "activation must be None or 'silu', got 'relu'"),
    "dilation": ({"dilation": 0}, "dilation must be at least 1, got 0"),
    "state": (
        {"initial_state": STATE},
        "initial_state and return_final_state must be left out with causal=False",
    ),
    "final": (
        {"return_final_state": True},
        "initial_state and return_final_state must be left out with causal=False",
    ),
    "state size": (
        {"initial_state": STATE, "causal": True, "dilation": 2},
        r"initial_state must have shape \(N, S, C\) with S=4",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        fsmn_memory(**{"x": X, "weight": torch.ones(4, 3)} | change)


def test_bad_steps():
    weight = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"x must have shape .* with T=1 in a step"):
        fsmn_memory_step(X, weight, state=STATE)
    with pytest.raises(ValueError, match=r"state must have shape \(N, S, C\) with N=2"):
        fsmn_memory_step(X[:, :1], weight, state=STATE[:1])
    with pytest.raises(TypeError, match=r"weight must have dtype torch\.float32"):
        fsmn_memory(X, weight.half())
