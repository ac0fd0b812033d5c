# SPDX-License-Identifier: Apache-2.0
"""What dense_fsmn_memory adds to the checks of every family: goldens, neighbours, edges."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from seqlib_kernels._core import threads
from seqlib_kernels.fsmn.dense import op
from seqlib_kernels.fsmn.dense.op import dense_fsmn_memory
from seqlib_kernels.fsmn.dense.spec import SPEC
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

GOLDEN = Path(__file__).parents[1] / "golden" / "mossformer2"
REFERENCE = pytest.param("reference", id="reference")
CPU = pytest.param("cpu", id="cpu")
TRITON = pytest.param("triton", id="interpreted", marks=pytest.mark.interpret)
each_backend = pytest.mark.parametrize("backend", [REFERENCE, CPU, TRITON])
fast_backend = pytest.mark.parametrize("backend", [CPU, TRITON])
F64 = torch.float64


# Golden memories of one to three layers, with the projections around the op in plain torch.


def load(name):
    """The tensors of a file, weights as float64, and its metadata."""
    with safe_open(GOLDEN / f"fsmn_dilated_{name}.safetensors", "pt") as file:
        return {n: file.get_tensor(n) for n in file.keys()}, file.metadata()  # noqa: SIM118


def parameters(arrays, depth, kind):
    """weight, gain, shift, slope of the op from the arrays named `kind.conv.*`."""
    layers = range(1, depth + 1)

    def rows(name):
        return torch.stack([arrays[f"{kind}.conv.{name.format(i)}"] for i in layers])

    taps = torch.cat([arrays[f"{kind}.conv.conv{i}.weight"][..., 0] for i in layers], 1)
    return taps, rows("norm{}.weight"), rows("norm{}.bias"), rows("prelu{}.weight")


def memory(x, w, given, backend):
    """The block of the released models: projected, and the whole of it."""
    h = F.linear(x, w["w.linear.weight"], w["w.linear.bias"]).relu()
    p = F.linear(h, w["w.project.weight"])
    y, _ = dense_fsmn_memory(p, *given, backend=backend)
    return p, x + y


def cast(arrays, dtype):
    return {n: x.to(dtype) for n, x in arrays.items() if n.startswith("w.")}


# The interpreter takes minutes for lorder20: the taps of "short", more steps.
FILES = ["a", "depth3", "short"]
RUNS = [(b, n) for b in ("reference", "cpu") for n in (*FILES, "lorder20")] + [
    pytest.param("triton", name, marks=pytest.mark.interpret) for name in FILES
]


@pytest.mark.parametrize(("backend", "name"), RUNS)
def test_golden_float64(backend, name):
    arrays, about = load(name)
    depth = int(about["depth"])
    w = cast(arrays, F64)
    given = [p.requires_grad_() for p in parameters(w, depth, "w")]
    x = arrays["in.x"].clone().requires_grad_()
    p, y = memory(x, w, given, backend)
    assert rel_err(y.detach(), arrays["out.y"]) < 1e-10
    assert rel_err((y - x).detach(), arrays[f"out.act{depth}"]) < 1e-10
    dx, *grads = torch.autograd.grad(y, [x, *given], arrays["ct.y"])
    assert rel_err(dx, arrays["gin.x"]) < 1e-10
    for got, want in zip(grads, parameters(arrays, depth, "gw"), strict=True):
        assert rel_err(got, want, time=None) < 1e-7  # stored as float32
    if backend != "reference":
        _, convs, *_ = op._fwd(p.detach(), *(q.detach() for q in given), None, 1e-5, backend)
        for i in range(depth):
            assert rel_err(convs[i], arrays[f"out.conv{i + 1}"]) < 1e-10


@fast_backend
@pytest.mark.parametrize("name", FILES)
def test_golden_float32(name, backend):
    arrays, about = load(name)
    w = cast(arrays, torch.float32)
    given = parameters(w, int(about["depth"]), "w")
    _, y = memory(arrays["in.x"].float(), w, given, backend)
    assert (y - arrays["out.y"]).abs().max() < 4 * float(about["fp32_max_abs_err"])


# Which neighbours an output channel reads.


@each_backend
@pytest.mark.parametrize("C", [4, 5])
def test_second_layer_reads_neighbours_of_the_concatenation(C, backend):
    """A grouped convolution of [o_1, x]; channel c never sees its own o_1 and x side by side."""
    T, x = 9, torch.randn(1, 9, C, dtype=F64, generator=torch.Generator().manual_seed(0))
    weight = torch.zeros(C, 3, 1, dtype=F64)
    weight[:, 0] = 1  # conv_1 hands x on
    weight[:, 1] = 1  # conv_2 hands its first neighbour on
    one, zero = torch.ones(2, C, dtype=F64), torch.zeros(2, C, dtype=F64)
    y, _ = dense_fsmn_memory(x, weight, one, zero, one, eps=1e-5, backend=backend)
    first = F.instance_norm(x.mT, eps=1e-5).mT
    cat = torch.cat([first, x], -1)
    want = F.instance_norm(cat[..., ::2].mT, eps=1e-5).mT
    assert y.shape == (1, T, C)
    assert rel_err(y, want) < 1e-12


@fast_backend
@pytest.mark.parametrize(("depth", "C", "W"), [(2, 3, 75), (4, 2, 3), (2, 3, 1)])
def test_taps_beyond_tiles_and_the_sequence(depth, C, W, backend):
    """Taps that reach further than a tile, and phases that hold no step at all."""
    dims = {"C": C, "W": W, "depth": depth}
    for T in (5, 40) if backend == "cpu" else (5,):
        problem = Problem.draw(SPEC, SPEC.cases[0], 1, T, dims, dtype=torch.float32)
        got = solve(SPEC.op, problem, backend=backend)
        assert all(e < 16 for e in errors(got, oracle(problem), problem).values())


def test_blocks_of_channels_that_straddle_layers():
    """600 channels are three jobs, whose inputs lie in two of the three blocks read."""
    dims = {"C": 600, "W": 3, "depth": 3}
    problem = Problem.draw(SPEC, SPEC.cases[0], 1, 40, dims, dtype=torch.float32)
    got = solve(SPEC.op, problem, backend="cpu")
    assert all(e < 16 for e in errors(got, oracle(problem), problem).values())


def test_threads_change_no_bit(monkeypatch):
    dims = {"C": 300, "W": 5, "depth": 2}
    problem = Problem.draw(
        SPEC, SPEC.cases[0], 1, 90, dims, dtype=torch.float32, lengths=(40, 0, 50)
    )
    alone = solve(SPEC.op, problem, backend="cpu")
    monkeypatch.setattr(threads, "count", lambda *_: 4)
    shared = solve(SPEC.op, problem, backend="cpu")
    assert all(torch.equal(alone[n], shared[n]) for n in alone)


# One step, silence, padding.


@each_backend
def test_one_step_is_the_slope_of_the_offset(backend):
    """The variance of one step is 0; nothing of x is left, and nothing goes back to it."""
    case = SPEC.cases[1]
    problem = Problem.draw(SPEC, case, 2, 1, case.small, dtype=F64)
    inputs = {n: p.requires_grad_() for n, p in problem.inputs.items()}
    y, state = dense_fsmn_memory(**inputs, backend=backend)
    shift, slope = inputs["shift"][1], inputs["slope"][1]
    assert state is None
    assert torch.equal(y, torch.where(shift > 0, shift, slope * shift).expand_as(y))
    dx, dweight = torch.autograd.grad(y.sum(), (inputs["x"], inputs["weight"]))
    assert not dx.any()
    assert not dweight.any()


@each_backend
def test_zeros_behind_a_sequence_are_not_neutral(backend):
    """What a padded batch gives is another result: lengths belong into cu_seqlens."""
    case = SPEC.cases[1]
    problem = Problem.draw(SPEC, case, 1, 12, case.small, dtype=F64)
    others = {n: p for n, p in problem.inputs.items() if n != "x"}
    x = problem.inputs["x"]
    alone, _ = dense_fsmn_memory(x, **others, backend=backend)
    padded = F.pad(x, (0, 0, 0, 4))
    longer, _ = dense_fsmn_memory(padded, **others, backend=backend)
    bounds = torch.tensor([0, 12, 16])
    packed, _ = dense_fsmn_memory(padded, **others, cu_seqlens=bounds, backend=backend)
    assert torch.equal(packed[:, :12], alone)
    assert rel_err(longer[:, :12], alone) > 0.05


# Bad input.


def test_bad_input():
    case = SPEC.cases[1]
    good = Problem.draw(SPEC, case, 2, 5, case.small).inputs
    bad = {
        r"weight must have an odd number of taps W, got W=2": {"weight": good["weight"][..., 1:]},
        r"weight must have depth\(depth\+1\)/2=3 inputs": {"weight": good["weight"][:, 1:]},
        r"gain must have a row for each of at least 1 layer, got 0": {
            n: good[n][:0] for n in ("gain", "shift", "slope")
        },
        r"shift must have shape .* depth=2": {"shift": good["shift"][1:]},
        r"eps must be positive, got 0": {"eps": 0},
    }
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            dense_fsmn_memory(**{**good, **change})
