# SPDX-License-Identifier: Apache-2.0
"""What joint_attention adds to the checks of every family: goldens, dropout, steps, bad input."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from seqlib_kernels._core import threads
from seqlib_kernels.fsmn.attention.op import joint_attention
from seqlib_kernels.fsmn.attention.segment import joint_attention_segment
from seqlib_kernels.fsmn.attention.spec import SPEC
from seqlib_kernels.fsmn.attention.step import JointAttentionState, joint_attention_step
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

GOLDEN = Path(__file__).parents[1] / "golden" / "mossformer2"
REFERENCE = pytest.param("reference", id="reference")
CPU = pytest.param("cpu", id="cpu")
TRITON = pytest.param("triton", id="interpreted", marks=pytest.mark.interpret)
each_backend = pytest.mark.parametrize("backend", [REFERENCE, CPU, TRITON])
fast_backend = pytest.mark.parametrize("backend", [CPU, TRITON])
CASES = {case.name: case for case in SPEC.cases}
each_causal_case = pytest.mark.parametrize("name", ["causal", "causal by group"])
F64 = torch.float64


# Golden layers, with the projections around the op in plain torch.

FILES = ["attention_pad", "attention_exact", "attention_short", "attention_causal"]
each_file = pytest.mark.parametrize("name", FILES)


def load(name):
    """The tensors of a file, weights as float64 too, and the options of the op."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        arrays = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        about = file.metadata()
    causal = about["causal"] == "True"
    options = {"group_size": int(about["group_size"]), "causal": causal}
    if causal:
        options["normalize"] = "group"
    return arrays, options


def projected(x, w, name):
    """Norm, linear map, SiLU and a convolution beside a residual."""
    rms = x.square().mean(-1, keepdim=True).clamp(min=1e-10).sqrt()
    x = w[f"{name}.mdl.0.g"] * x / rms
    x = F.silu(F.linear(x, w[f"{name}.mdl.1.weight"], w[f"{name}.mdl.1.bias"]))
    taps = w[f"{name}.mdl.3.sequential.1.conv.weight"]
    return x + F.conv1d(x.mT, taps, padding=taps.shape[-1] // 2, groups=len(taps)).mT


def layer(x, w, options, backend):
    delayed, passed = x.chunk(2, -1)
    shifted = torch.cat((F.pad(delayed, (0, 0, 1, -1)), passed), -1)
    heads = (w["qk_offset_scale.gamma"], w["qk_offset_scale.beta"], w["rotary_pos_emb.freqs"])
    z, qk = projected(shifted, w, "to_hidden"), projected(shifted, w, "to_qk")
    o, _ = joint_attention(z, qk, *heads, **options, backend=backend)
    return x + projected(o, w, "to_out")


@each_backend
@each_file
def test_golden_output(name, backend):
    p, options = load(name)
    z = torch.cat((p["out.v"], p["out.u"]), -1)
    heads = (p["w.qk_offset_scale.gamma"], p["w.qk_offset_scale.beta"])
    o, _ = joint_attention(
        z, p["out.qk"], *heads, p["w.rotary_pos_emb.freqs"], **options, backend=backend
    )
    want = p["out.att_u"] * p["out.v"] * torch.sigmoid(p["out.att_v"] * p["out.u"])
    # measured: 7e-16
    torch.testing.assert_close(o, want, rtol=1e-10, atol=1e-10)


@each_backend
@each_file
def test_golden_layer_and_gradients(name, backend):
    p, options = load(name)
    w = {n[2:]: x for n, x in p.items() if n.startswith("w.")}
    w = {n: x if "freqs" in n else x.to(F64).requires_grad_() for n, x in w.items()}
    x = p["in.x"].requires_grad_()
    y = layer(x, w, options, backend)
    torch.testing.assert_close(y, p["out.y"], rtol=1e-10, atol=1e-10)
    leaves = {"gin.x": x} | {f"gw.{n}": v for n, v in w.items() if v.requires_grad}
    grads = torch.autograd.grad(y, list(leaves.values()), p["ct.y"])
    for n, got in zip(leaves, grads, strict=True):
        want, rounded = p[n].to(F64), p[n].dtype == torch.float32
        bound = 1e-6 if rounded else 1e-10  # gradients of weights are stored as float32
        torch.testing.assert_close(got, want, rtol=bound, atol=bound * want.abs().max().item())


# Ranges and sizes that are easy to get wrong.


def draw(name, T, B=2, dims=None, **options):
    return Problem.draw(SPEC, CASES[name], B, T, dims, **options)


def changed(problem, **options):
    """The problem with other options of the op."""
    case = replace(problem.case, options={**problem.case.options, **options})
    return replace(problem, case=case)


@fast_backend
def test_a_short_group_is_divided_by_the_size_of_full_ones(backend):
    problem = changed(draw("local", 3, dtype=F64), freqs=torch.empty(0))
    z, qk, gamma, beta = (problem.inputs[n] for n in ("z", "qk", "gamma", "beta"))
    quad_q, lin_q, quad_k, lin_k = (
        qk * g + b for g, b in zip(gamma, beta, strict=True)
    )  # three frames of a group of four
    A = torch.relu(quad_q @ quad_k.mT / 4).square() @ z + lin_q @ (lin_k.mT @ z) / 3
    (A_v, A_u), (v, u) = A.chunk(2, -1), z.chunk(2, -1)
    got = solve(SPEC.op, problem, backend=backend)["output"]
    torch.testing.assert_close(got, A_u * v * torch.sigmoid(A_v * u), rtol=1e-12, atol=1e-12)


@fast_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_below_the_smallest_float16(dtype, backend):
    """At the start of training P is about 1e-10; alone here, and read through large values."""

    def start(inputs):
        gamma = 2e-2 * inputs["gamma"]
        gamma[1], gamma[3] = 0, 0
        inputs["z"] *= 1e3
        return {**inputs, "gamma": gamma, "beta": torch.zeros_like(gamma)}

    problem = draw("local", 7, dtype=dtype, change=start)
    want = oracle(problem)
    assert 0 < want["output"].abs().max() < 1
    got = solve(SPEC.op, problem, backend=backend)
    found = errors(got, want, problem)
    if dtype == torch.float16:
        del found["d_z"]  # itself below its smallest normal number
    assert not max(found.values()) > SPEC.tolerance[dtype]


@fast_backend
def test_positions_that_bfloat16_cannot_count(backend):
    """Beyond 256 frames; with positions rounded to bfloat16 the error is 40 times the bound."""
    T = 300 if backend == "triton" else 700
    problem = draw("local", T, 1, dtype=torch.bfloat16)
    problem = changed(problem, group_size=64, freqs=torch.tensor([1.0, 0.1]))
    got = solve(SPEC.op, problem, backend=backend)
    assert not max(errors(got, oracle(problem), problem).values()) > SPEC.tolerance[torch.bfloat16]


def test_frames_by_the_hundred_thousand():
    wide = changed(draw("local", 100_000, 1, dtype=F64), group_size=64)
    single = wide.to(torch.float32)
    rounded = single.to(F64)
    got, want = (solve(SPEC.op, p, backend="cpu") for p in (single, rounded))
    # measured: 280 eps, of sums over 1563 groups; float32 angles would be wrong by 10^4 eps
    assert not max(errors(got, want, single).values()) > 512


@fast_backend
@each_causal_case
def test_the_past_stays_when_the_future_changes(name, backend):
    T = 11
    problem = draw(name, T, dtype=torch.float32)
    before = solve(SPEC.op, problem, backend=backend)["output"]
    for t in range(T):
        inputs = {n: x.clone() for n, x in problem.inputs.items()}
        inputs["z"][:, t:] += 1
        inputs["qk"][:, t:] -= 1
        after = solve(SPEC.op, replace(problem, inputs=inputs), backend=backend)["output"]
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t:], before[:, t:])


@fast_backend
@pytest.mark.parametrize("name", CASES)
def test_packed_sequences_are_apart(name, backend):
    """What changes in one sequence leaves the others as they were, gradients included."""
    lengths = (5, 0, 6)
    problem = draw(name, 11, 1, dtype=torch.float32, lengths=lengths)
    inputs = {n: x.clone() for n, x in problem.inputs.items()}
    inputs["z"][:, :5] += 1
    inputs["qk"][:, :5] -= 1
    before = solve(SPEC.op, problem, backend=backend)
    after = solve(SPEC.op, replace(problem, inputs=inputs), backend=backend)
    for n in ("output", "d_z", "d_qk"):
        assert torch.equal(after[n][:, 5:], before[n][:, 5:])
        assert not torch.equal(after[n][:, :5], before[n][:, :5])


@each_causal_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_of_several_blocks(name, dtype):
    """The CPU kernels skip most of what lies above the diagonal of P."""
    problem = masked(changed(draw(name, 331, 1, dtype=dtype), group_size=150))
    got = solve(SPEC.op, problem, backend="cpu")
    assert not max(errors(got, oracle(problem), problem).values()) > SPEC.tolerance[dtype]


def test_threads_share_rows(monkeypatch):
    problem = draw("causal", 11, dtype=torch.float32)
    want = solve(SPEC.op, problem, backend="cpu")
    monkeypatch.setattr(threads, "count", lambda elements: 3)
    got = solve(SPEC.op, problem, backend="cpu")
    assert all(torch.equal(got[n], want[n]) for n in want)


# Dropout.


def masked(problem, p=0.3, seed=0):
    batch, T = problem.output_grad.shape[:2]
    shape = (batch, T, problem.case.options["group_size"])
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) >= p
    return changed(problem, keep=keep, keep_scale=1 / (1 - p))


@fast_backend
@pytest.mark.parametrize("name", ["local", "causal"])
@pytest.mark.parametrize("lengths", [None, (3, 0, 1, 7)], ids=["batch", "packed"])
def test_dropout(name, lengths, backend):
    problem = masked(draw(name, 11, 1 if lengths else 2, dtype=torch.float32, lengths=lengths))
    got = solve(SPEC.op, problem, backend=backend)
    want = oracle(problem)
    assert not max(errors(got, want, problem).values()) > SPEC.tolerance[torch.float32]
    whole = solve(SPEC.op, changed(problem, keep=None, keep_scale=1.0), backend=backend)
    assert rel_err(got["output"], whole["output"]) > 0.01


@fast_backend
def test_nothing_dropped(backend):
    problem = draw("local", 7, dtype=torch.float32)
    keep = torch.ones(2, 7, 4, dtype=torch.bool)
    got = solve(SPEC.op, changed(problem, keep=keep), backend=backend)
    want = solve(SPEC.op, problem, backend=backend)
    assert all(torch.equal(got[n], want[n]) for n in want)


def test_dropout_keeps_the_mean():
    """Of A_u, which the output is proportional to as long as the gate is nearly linear."""

    def quiet(inputs):
        inputs["z"][..., 3:] *= 1e-5  # u
        return {n: x[:1] if n in ("z", "qk") else x for n, x in inputs.items()}

    B, T = 4000, 6
    one = draw("local", T, 1, change=quiet)
    many = {n: x.expand(B, -1, -1) if n in ("z", "qk") else x for n, x in one.inputs.items()}
    cotangent = one.output_grad.expand(B, -1, -1)
    drawn = solve(SPEC.op, masked(replace(one, inputs=many, output_grad=cotangent)), backend="cpu")
    want = solve(SPEC.op, one, backend="cpu")["output"]
    samples = drawn["output"]
    off = (samples.mean(0) - want[0]) / (samples.std(0) / B**0.5)
    assert off.abs().max() < 5
    assert samples.std(0).min() > 0


# Frame by frame.


@each_causal_case
@pytest.mark.parametrize("dtype", CASES["causal"].dtypes, ids=lambda dtype: str(dtype)[6:])
def test_steps_equal_the_causal_op(name, dtype):
    problem = draw(name, 11, dims=CASES[name].odd, dtype=dtype)
    options = {n: v for n, v in problem.case.options.items() if n != "causal"}
    x = dict(problem.inputs)
    z, qk = x.pop("z"), x.pop("qk")
    state = JointAttentionState.empty(2, 5, 7, options["group_size"], z)
    outputs = []
    for t in range(11):
        frame = slice(t, t + 1)
        o, state = joint_attention_step(z[:, frame], qk[:, frame], **x, **options, state=state)
        assert o.dtype == dtype
        outputs.append(o)
    assert state.position.tolist() == [11, 11]
    want = oracle(problem)["output"]
    assert (
        not errors({"output": torch.cat(outputs, 1)}, {"output": want}, problem)["output"]
        > (SPEC.tolerance[dtype])
    )


@each_causal_case
@pytest.mark.parametrize("dtype", CASES["causal"].dtypes, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("lengths", [(11,), (4, 7), (3, 0, 2, 6), (1, 8, 2)], ids=str)
def test_segments_equal_the_causal_op(lengths, name, dtype):
    problem = draw(name, 11, dims=CASES[name].odd, dtype=dtype)
    options = {n: v for n, v in problem.case.options.items() if n != "causal"}
    x = dict(problem.inputs)
    z, qk = (x.pop(n).split(lengths, 1) for n in ("z", "qk"))
    state = JointAttentionState.empty(2, 5, 7, options["group_size"], z[0])
    outputs = []
    for part in zip(z, qk, strict=True):
        o, state = joint_attention_segment(*part, **x, **options, state=state)
        outputs.append(o)
    assert state.position.tolist() == [11, 11]
    got, want = {"output": torch.cat(outputs, 1)}, {"output": oracle(problem)["output"]}
    assert not errors(got, want, problem)["output"] > SPEC.tolerance[dtype]


def test_segments_and_steps_leave_the_same_state():
    problem = draw("causal", 10, dtype=F64)
    x = {n: v for n, v in {**problem.inputs, **problem.case.options}.items() if n != "causal"}
    z, qk = x.pop("z"), x.pop("qk")
    stepped = JointAttentionState.empty(2, 3, 6, 4, z)
    for t in range(10):
        _, stepped = joint_attention_step(z[:, t : t + 1], qk[:, t : t + 1], **x, state=stepped)
    begun = JointAttentionState.empty(2, 3, 6, 4, z)
    _, whole = joint_attention_segment(z, qk, **x, state=begun)
    torch.testing.assert_close(whole.memory, stepped.memory)
    held = 10 % 4  # rows behind are stale
    assert torch.equal(whole.z[:, :held], stepped.z[:, :held])
    torch.testing.assert_close(whole.keys[:, :held], stepped.keys[:, :held])
    assert torch.equal(whole.position, stepped.position)


def test_steps_of_sequences_at_frames_of_their_own():
    problem = draw("causal", 9, dtype=torch.float32)
    options = {n: v for n, v in problem.case.options.items() if n != "causal"}
    x = {n: problem.inputs[n] for n in ("gamma", "beta")}
    z, qk = problem.inputs["z"], problem.inputs["qk"]

    def advance(frames, state):
        return joint_attention_step(
            *(torch.stack([y[i, t] for i, t in enumerate(frames)])[:, None] for y in (z, qk)),
            **x, **options, state=state,
        )  # fmt: skip

    ahead = JointAttentionState.empty(2, 3, 6, 4, z)
    for t in range(6):
        _, ahead = advance((t, t), ahead)
    behind = JointAttentionState.empty(2, 3, 6, 4, z)
    mixed = JointAttentionState(
        *(torch.cat((getattr(ahead, n)[:1], getattr(behind, n)[1:])) for n in vars(ahead))
    )
    kept = {n: value.clone() for n, value in vars(mixed).items()}
    state, outputs = mixed, []
    for t in range(3):
        o, state = advance((6 + t, t), state)
        outputs.append(o)
    assert all(torch.equal(getattr(mixed, n), value) for n, value in kept.items())
    want = oracle(problem)["output"]
    want = torch.stack((want[0, 6:9], want[1, 0:3]))
    assert rel_err(torch.cat(outputs, 1), want) < SPEC.tolerance[torch.float32] * 2**-23


def test_a_group_forgets_what_its_rows_held_before():
    """A NaN spoils its own group and, through the memory, later ones; not those of a new state."""
    problem = draw("causal", 5, 1, dtype=torch.float32)
    options = {n: v for n, v in problem.case.options.items() if n != "causal"}
    x = {n: problem.inputs[n] for n in ("gamma", "beta")}
    z, qk = problem.inputs["z"][:, :1], problem.inputs["qk"][:, :1]
    clean = JointAttentionState.empty(1, 3, 6, 4, z)
    stale = JointAttentionState(
        clean.memory, torch.full_like(clean.z, torch.inf), clean.keys, clean.position
    )
    want, _ = joint_attention_step(z, qk, **x, **options, state=clean)
    got, _ = joint_attention_step(z, qk, **x, **options, state=stale)
    assert torch.equal(got, want)


# Bad input.

BAD = {
    "odd z": ({"z": torch.zeros(2, 5, 7)}, ValueError, "z must have an even last size"),
    "three heads": (
        {"gamma": torch.zeros(3, 6)},
        ValueError,
        r"gamma must have 4 rows, one per head, got shape \(3, 6\)",
    ),
    "half freqs": ({"freqs": torch.zeros(2).half()}, TypeError, "freqs must be float32 or float64"),
    "four freqs": ({"freqs": torch.zeros(4)}, ValueError, "freqs must turn at most the S=6"),
    "no group": ({"group_size": 0}, ValueError, "group_size must be at least 1, got 0"),
    "unknown rule": (
        {"normalize": "all", "causal": True},
        ValueError,
        "normalize must be one of frames, group, got 'all'",
    ),
    "rule of causal": (
        {"normalize": "group"},
        ValueError,
        "normalize must be 'frames' unless causal is set, got 'group'",
    ),
    "float keep": ({"keep": torch.ones(2, 5, 4)}, TypeError, "keep must be bool"),
    "short keep": (
        {"keep": torch.ones(2, 5, 3, dtype=torch.bool)},
        ValueError,
        r"keep must have shape \(B, T, G\) with G=4",
    ),
    "no keep": ({"keep_scale": 2.0}, ValueError, "keep_scale must be 1 without keep, got 2.0"),
    "scale 0": ({"keep_scale": 0.0}, ValueError, "keep_scale must be positive, got 0.0"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(change, error, message):
    problem = draw("local", 5, dtype=torch.float32)
    with pytest.raises(error, match=message):
        joint_attention(**{**problem.inputs, **problem.case.options, **change})


def test_bad_steps():
    problem = draw("causal", 2, dtype=torch.float32)
    options = {n: v for n, v in problem.case.options.items() if n != "causal"}
    one = problem.case.tokens(dict(problem.inputs), 0, 1)
    state = JointAttentionState.empty(2, 3, 6, 4, one["z"])
    with pytest.raises(ValueError, match="T=1 in a step"):
        joint_attention_step(**problem.inputs, **options, state=state)
    with pytest.raises(TypeError, match="state must be a JointAttentionState, got dict"):
        joint_attention_step(**one, **options, state=vars(state))  # type: ignore[arg-type]
    for sizes, name in (((1, 3, 6, 4), "memory"), ((2, 3, 6, 5), "z"), ((2, 3, 7, 4), "memory")):
        wrong = JointAttentionState.empty(*sizes, one["z"])
        with pytest.raises(ValueError, match=f"state.{name} must have shape"):
            joint_attention_step(**one, **options, state=wrong)
    with pytest.raises(TypeError, match="memory must have dtype"):
        joint_attention_step(
            **one, **options, state=JointAttentionState.empty(2, 3, 6, 4, one["z"].double())
        )


def test_a_sequence_is_its_groups_and_one_memory():
    """The op on packed groups, each a sequence, differs from the whole by the memory alone."""
    problem = draw("local", 8, 1, dtype=F64)
    gamma = problem.inputs["gamma"].clone()
    beta = problem.inputs["beta"].clone()
    gamma[1], beta[1] = 0, 0  # lin_q: nothing is read from the memory
    inputs = {**problem.inputs, "gamma": gamma, "beta": beta}
    whole, _ = joint_attention(**inputs, **problem.case.options, backend="cpu")
    bounds = torch.tensor([0, 4, 8])
    cut, _ = joint_attention(**inputs, **problem.case.options, cu_seqlens=bounds, backend="cpu")
    # the angle between two frames of a group doesn't depend on where the group is
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
    for first, last in pairwise(bounds.tolist()):
        part = {n: x if n in ("gamma", "beta") else x[:, first:last] for n, x in inputs.items()}
        alone, _ = joint_attention(**part, **problem.case.options, backend="cpu")
        assert torch.equal(alone, cut[:, first:last])
