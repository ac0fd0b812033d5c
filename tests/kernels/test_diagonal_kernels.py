# SPDX-License-Identifier: Apache-2.0
"""What only the Triton kernels of diagonal_ssm have: groups of chunks, segments, tables."""

from dataclasses import replace

import pytest
import torch
from seqlib_kernels._core.launch import INTERPRETER, Launch
from seqlib_kernels.ssm.diagonal import launch
from seqlib_kernels.ssm.diagonal.launch import LAUNCH, Split, precision, segment_groups
from seqlib_kernels.ssm.diagonal.op import diagonal_ssm
from seqlib_kernels.ssm.diagonal.spec import SPEC
from seqlib_kernels.testing import Problem, errors, oracle, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

F64 = torch.float64
CASES = {case.name: case for case in SPEC.cases}
# Groups of three chunks: 12 tokens. The second row is a GPU's, with groups of 480.
ROW = Launch(arch=INTERPRETER, itemsize=4, width=256, tiles={"BT": 4, "R": 4, "BH": 2, "BM": 4})
GPU_ROW = Launch(
    arch=INTERPRETER, itemsize=4, width=256, tiles={"BT": 32, "R": 16, "BH": 8, "BM": 16}
)


def kernels_of_triton():
    """Imported where Triton is there to interpret them."""
    from seqlib_kernels.ssm.diagonal import kernels

    return kernels


def check(problem, **options) -> dict[str, torch.Tensor]:
    got = solve(diagonal_ssm, problem, backend="triton", **options)
    found = errors(got, oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[problem.dtype], found
    return got


# Groups of chunks.


@pytest.mark.interpret
@pytest.mark.parametrize("T", [11, 12, 13, 16, 24, 29])
def test_lengths_around_groups(T):
    with LAUNCH.forced(ROW):
        check(Problem.draw(SPEC, CASES["zoh"], 1, T, {"H": 3, "M": 3}))


@pytest.mark.interpret
@pytest.mark.parametrize("lengths", [(13, 0, 24, 1), (0, 0, 30), (4, 4, 4, 25)])
def test_packed_sequences_of_several_groups(lengths):
    with LAUNCH.forced(ROW):
        check(Problem.draw(SPEC, CASES["shared"], 1, sum(lengths), lengths=lengths))


@pytest.mark.interpret
@pytest.mark.parametrize("M", [1, 4, 5, 9])
def test_blocks_of_modes(M):
    with LAUNCH.forced(ROW):
        check(Problem.draw(SPEC, CASES["bilinear"], 1, 27, {"H": 3, "M": M}))


@pytest.mark.interpret
@pytest.mark.parametrize(("case", "H", "M"), [("shared", 0, 2), ("zoh", 3, 0)])
def test_no_channels_or_modes(case, H, M):
    problem = Problem.draw(SPEC, CASES[case], 2, 5, {"H": H, "M": M})
    got = check(problem)
    assert got["output"].shape == (2, 5, H)


@pytest.mark.interpret
def test_tables_of_a_gpu():
    """The tiles of the GPU rows, over a group's end."""
    with LAUNCH.forced(GPU_ROW):
        check(Problem.draw(SPEC, CASES["zoh"], 1, 500, {"H": 9, "M": 3}, dtype=torch.float32))


@pytest.mark.interpret
def test_a_group_does_not_depend_on_what_follows():
    """Bit for bit: also where the cut is no end of a group, if one reads on from its start."""
    problem = Problem.draw(SPEC, CASES["zoh"], 1, 40, dtype=torch.float32)
    with LAUNCH.forced(ROW):
        whole = solve(diagonal_ssm, problem, backend="triton")
        inputs = problem.case.tokens(problem.inputs, 0, 30)
        y, _ = diagonal_ssm(**inputs, initial_state=problem.initial_state, backend="triton")
    assert torch.equal(y, whole["output"][:, :30])


# Multipliers close to 1 over a long time.


# Measured: 2.4e-7, in segments 2.0e-7. A multiplier rounded once per group would give 3e-6.
@pytest.mark.interpret
@pytest.mark.parametrize("groups", [0, 60])
def test_the_multiplier_of_the_state_is_not_rounded(groups, monkeypatch):
    """A mode that turns and hardly decays, over 100,000 tokens: its phase is that of float64."""
    monkeypatch.setattr(kernels_of_triton(), "segment_groups", lambda *_: groups)
    A = torch.tensor([[[-1e-3, 3.3]]])
    B = C = torch.ones(1, 1, 2)
    dt, T = torch.full((1,), 0.01), 100_000
    state = torch.tensor([[[[0.6, 0.8]]]])
    row = replace(GPU_ROW, tiles={**GPU_ROW.tiles, "BM": 1})
    with LAUNCH.forced(row):
        _, end = diagonal_ssm(
            torch.zeros(1, T, 1), A, B, C, dt,
            initial_state=state, return_final_state=True, backend="triton",
        )  # fmt: skip
    turn = torch.view_as_complex(A.double() * dt.double()[:, None, None]) * T
    want = turn.exp() * torch.view_as_complex(state.double())
    error = (torch.view_as_complex(end.double()) - want).abs() / want.abs()
    assert error.item() < 1e-6


# Long sequences in segments.


@pytest.fixture
def split(monkeypatch):
    """A device that is never full, and segments from one group of 12 tokens up."""
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 10_000)
    monkeypatch.setattr(launch, "SPLIT", Split(segments=1, groups=1))
    with LAUNCH.forced(ROW):
        yield


def groups_of(problem) -> int:
    u = problem.inputs["u"]
    N = len(u) if problem.cu_seqlens is None else len(problem.cu_seqlens) - 1
    return segment_groups(u, problem.dims["M"], N)


@pytest.mark.interpret
@pytest.mark.parametrize("T", [1, 12, 13, 24, 38])
def test_segments(split, T):
    problem = Problem.draw(SPEC, CASES["zoh"], 2, T)
    assert groups_of(problem) == 1
    check(problem)


@pytest.mark.interpret
def test_segments_without_initial_state(split):
    check(Problem.draw(SPEC, CASES["bilinear"], 1, 30, initial_state=False))


@pytest.mark.interpret
@pytest.mark.parametrize("lengths", [(1, 50, 0, 13), (0, 24, 12, 0), (30,), (0, 40, 0)])
def test_segments_of_packed_sequences(split, lengths):
    problem = Problem.draw(SPEC, CASES["zoh"], 1, sum(lengths), lengths=lengths)
    assert groups_of(problem) > 0
    check(problem)


@pytest.mark.interpret
def test_segments_of_several_groups(split, monkeypatch):
    problem = Problem.draw(SPEC, CASES["zoh"], 1, 130)
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 8)  # 2 blocks of channels
    assert groups_of(problem) == 3  # of 11, in 4 segments
    check(problem)


@pytest.mark.interpret
def test_segments_both_ways(split):
    problem = Problem.draw(SPEC, CASES["zoh"], 1, 26)
    inputs = {**problem.inputs, "C": torch.stack((problem.inputs["C"], -problem.inputs["C"]))}

    def results(backend):
        leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
        y, _ = diagonal_ssm(**leaves, bidirectional=True, backend=backend)
        return y, *torch.autograd.grad(y, tuple(leaves.values()), problem.output_grad)

    for got, want in zip(results("triton"), results("reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.interpret
def test_whether_sequences_are_split_changes_rounding_alone(split):
    problem = Problem.draw(SPEC, CASES["shared"], 1, 40, dtype=torch.float32)
    got = check(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "multiprocessors", lambda device: 0)
        whole = check(problem)
    for name in whole:
        torch.testing.assert_close(got[name], whole[name], rtol=1e-4, atol=1e-4)


# The rule of the split: 132 multiprocessors, groups of 480 tokens, blocks of 8 channels.


@pytest.mark.parametrize(
    ("B", "T", "H", "groups"),
    [
        (1, 1 << 16, 256, 35),  # 32 programs, 137 groups: 4 segments
        (1, 1 << 16, 16, 3),  # 2 programs: 66 segments would fill the device
        (1, 2000, 16, 0),  # 5 groups, of which a segment has two
        (2, 1 << 16, 256, 0),  # 2 segments gain too little
        (64, 1 << 16, 256, 0),
        (0, 1 << 16, 256, 0),
        (1, 0, 16, 0),
    ],
)
def test_when_sequences_are_split(B, T, H, groups, monkeypatch):
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 132)
    with LAUNCH.forced(GPU_ROW):
        assert segment_groups(torch.empty(B, T, H, device="meta"), 32, B) == groups


def test_cpus_split_nothing():
    assert segment_groups(torch.empty(1, 1 << 16, 16), 32, 1) == 0


# What products are made of.


def test_precision_of_products(monkeypatch):
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    nvidia, amd = (next(r for r in LAUNCH.rows if r.arch == a) for a in ("sm_90", "gfx942"))
    assert precision(torch.float32, nvidia) == ("tf32x3", "tf32x3")
    assert precision(torch.float16, nvidia) == ("tf32x3", "tf32")
    assert precision(torch.bfloat16, nvidia) == ("tf32", "tf32")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert precision(dtype, amd) == ("ieee", "ieee")
    assert precision(F64, nvidia) == ("ieee", "ieee")


@pytest.mark.interpret
def test_float64_is_for_the_interpreter(monkeypatch):
    monkeypatch.setattr(kernels_of_triton(), "interpreting", lambda: False)
    problem = Problem.draw(SPEC, CASES["zoh"], 1, 3)
    with pytest.raises(TypeError, match="u must not be float64 on a GPU"):
        diagonal_ssm(**problem.inputs, backend="triton")
