# SPDX-License-Identifier: Apache-2.0
"""Long sequences of the delta rule, split into segments that are swept side by side."""

from dataclasses import replace

import pytest
import torch
from seqlib_kernels import delta_rule
from seqlib_kernels._core.launch import INTERPRETER, Launch
from seqlib_kernels.delta_rule import launch
from seqlib_kernels.delta_rule.launch import LAUNCH, Split, saved_shapes, segment_chunks
from seqlib_kernels.delta_rule.spec import SPEC
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

CASES = {case.name: case for case in SPEC.cases}
ROW = Launch(arch=INTERPRETER, itemsize=4, width=16, tiles={"C": 16, "BK": 16, "BV": 16})


@pytest.fixture
def split(monkeypatch):
    """A device that is never full, and segments from one chunk of 16 rows up."""
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 10_000)
    monkeypatch.setattr(launch, "SPLIT", Split(segments=1, chunks=1))
    with LAUNCH.forced(ROW):
        yield


def whole(problem) -> dict[str, torch.Tensor]:
    """The results of the same kernels on whole sequences."""
    with pytest.MonkeyPatch.context() as patch, LAUNCH.forced(ROW):
        patch.setattr(launch, "multiprocessors", lambda device: 0)
        return solve(SPEC.op, problem, backend="triton")


def segments(problem) -> int:
    """Chunks in a segment, 0 where the kernels don't split."""
    q, v = problem.inputs["q"], problem.inputs["v"]
    n = problem.case.options.get("num_householder", 1)
    N = len(q) if problem.cu_seqlens is None else len(problem.cu_seqlens) - 1
    return segment_chunks(q, v, n, N)


def check(problem) -> dict[str, torch.Tensor]:
    assert segments(problem) > 0, "the problem should be split"
    got = solve(SPEC.op, problem, backend="triton")
    found = errors(got, oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[problem.dtype], found
    return got


# Measured, the worst result of T = 17 and 33 in eps of float64: 15; of whole sequences 10.
@pytest.mark.interpret
@pytest.mark.parametrize("case", ["plain", "signed"])
@pytest.mark.parametrize(("T", "chunks"), [(16, 1), (17, 1), (33, 1), (64, 2), (65, 3)])
def test_lengths_around_segments(split, monkeypatch, case, T, chunks):
    problem = Problem.draw(SPEC, CASES[case], 1, T)
    monkeypatch.setattr(launch, "SPLIT", Split(segments=1, chunks=min(chunks, 2)))
    assert segments(problem) == chunks
    got = check(problem)
    assert max(errors(got, whole(problem), problem).values()) <= SPEC.tolerance[torch.float64]


@pytest.mark.interpret
@pytest.mark.parametrize("lengths", [(3, 0, 40, 1), (0, 33, 0)], ids=str)
@pytest.mark.parametrize("case", ["gated", "product", "grouped"])
def test_packed(split, case, lengths):
    """Sequences shorter than a segment, of none and of several."""
    check(Problem.draw(SPEC, CASES[case], 1, sum(lengths), lengths=lengths))


@pytest.mark.interpret
@pytest.mark.parametrize("case", ["product", "normalised"])
def test_batches(split, case):
    check(Problem.draw(SPEC, CASES[case], 2, 20))


@pytest.mark.interpret
def test_states_of_several_blocks(split):
    dims = {"H": 1, "HV": 1, "K": 20, "V": 18}
    check(Problem.draw(SPEC, CASES["signed"], 1, 33, dims))


@pytest.mark.interpret
@pytest.mark.parametrize("lengths", [None, (18, 0, 2)], ids=str)
def test_without_initial_state(split, lengths):
    check(Problem.draw(SPEC, CASES["gated"], 1, 20, lengths=lengths, initial_state=False))


EXTREMES = [(case, name) for case in ("plain", "gated", "signed") for name in CASES[case].extremes]


# Measured in eps of float64: 26 (one key; whole sequences 28), 22 (beta = 2; 25), others 15 (13).
@pytest.mark.interpret
@pytest.mark.parametrize(("case", "name"), EXTREMES, ids=lambda x: x)
def test_extremes(split, case, name):
    """No decay, decays of exactly 0, 1 and -1, strong ones; beta of 0 and 2."""
    check(Problem.draw(SPEC, CASES[case], 1, 35, change=CASES[case].extremes[name]))


# Measured in eps: float32 4.1, bfloat16 3.1, float16 0.8, as of whole sequences.
@pytest.mark.interpret
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounded(split, dtype):
    check(Problem.draw(SPEC, CASES["signed"], 2, 35, dtype=dtype, seed=1))


@pytest.mark.interpret
def test_reflections_keep_the_norm_in_bfloat16(split):
    """Maps of segments keep the state's norm as chunks do, with eigenvalues of exactly -1."""
    K, T = 16, 256
    k = torch.randn(2, K, generator=torch.Generator().manual_seed(0)).repeat(T // 2, 1)
    k = k.bfloat16()[None, :, None]
    state = torch.randn(1, 1, K, 4, generator=torch.Generator().manual_seed(1))
    _, last = delta_rule(
        k, k, torch.zeros(1, T, 1, 4).bfloat16(), torch.full((1, T, 1), 2.0), normalize_qk=True,
        initial_state=state, return_final_state=True, backend="triton",
    )  # fmt: skip
    assert abs(last.norm() / state.norm() - 1) < 0.01


@pytest.mark.interpret
def test_two_runs_identical(split):
    problem = Problem.draw(SPEC, CASES["gated"], 1, 35, dtype=torch.float32)
    first, second = (solve(SPEC.op, problem, backend="triton") for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.interpret
def test_nan_reaches_later_segments_only(split):
    problem = Problem.draw(SPEC, CASES["gated"], 1, 60, lengths=(10, 40, 10))
    v = problem.inputs["v"].clone()
    v[:, 10 + 20] = float("nan")  # in the second of three segments
    x = {**problem.inputs, "v": v}
    o, state = delta_rule(
        **x, cu_seqlens=problem.cu_seqlens, return_final_state=True, backend="triton"
    )
    assert segments(problem) == 1
    assert not o[:, : 10 + 16].isnan().any()
    assert o[:, 10 + 20 : 50].isnan().any(-1).all()
    assert not o[:, 50:].isnan().any()
    assert state.isnan().flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.interpret
@pytest.mark.no_fence
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_to_one_dynamic_graph(split):
    torch.compiler.reset()

    def call(*args, **kwargs):
        return delta_rule(*args, **kwargs)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for T in (20, 40):  # two and three segments
            problem = Problem.draw(SPEC, CASES["gated"], 1, T, dtype=torch.float32)
            got = solve(compiled, problem, backend="triton")
            want = solve(SPEC.op, problem, backend="triton")
            assert all(torch.equal(got[n], want[n]) for n in want)


# The rule, on shapes alone.


def rule(B, T, HV, V=128, n=1, sequences=None) -> int:
    q, v = torch.empty(B, T, HV, 128, device="meta"), torch.empty(B, n * T, HV, V, device="meta")
    return segment_chunks(q.bfloat16(), v.bfloat16(), n, sequences or B)


@pytest.fixture
def h100(monkeypatch):
    """132 multiprocessors; chunks of 32 rows, blocks of 32 values."""
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 132)
    monkeypatch.setattr(launch, "SPLIT", Split(segments=4, chunks=8))
    with LAUNCH.forced(replace(ROW, tiles={"C": 32, "BK": 64, "BV": 32})):
        yield


def test_segments_fill_the_device_once(h100):
    assert rule(1, 32768, 4) == 128  # 16 programs: 8 segments of 1024 chunks
    assert rule(1, 32768, 8) == 256  # 32 programs: 4 segments
    assert rule(2, 32768, 4) == 256
    assert rule(1, 32768, 1) == 32  # 4 programs: 33 segments of 31.03 chunks
    assert rule(1, 32768, 4, V=64) == 64
    assert rule(1, 32768, 4, n=2) == 256  # a chunk has 16 tokens
    assert rule(1, 32768, 2, sequences=2) == 64  # packed: by the average length


def test_full_devices_and_short_sequences_are_not_split(h100):
    assert rule(1, 32768, 9) == 0  # 36 programs: three segments would be too few
    assert rule(8, 32768, 8) == 0
    assert rule(1, 1023, 1) == 8  # four segments of eight chunks
    assert rule(1, 992, 1) == 0
    assert rule(1, 32768, 2, sequences=64) == 0
    assert rule(1, 0, 1) == 0
    assert rule(0, 4096, 1) == 0


def test_nothing_is_split_without_a_gpu():
    assert launch.multiprocessors(torch.device("cpu")) == 0
    assert rule(1, 1 << 20, 1) == 0


def test_what_is_saved_has_room_for_every_segment(h100):
    q, v = torch.empty(1, 4100, 1, 64), torch.empty(1, 4100, 2, 32)
    segment = segment_chunks(q, v, 1, 3)
    assert segment > 0
    starts, maps = (shape for shape, _ in saved_shapes(q, v, 1, 3)[3:])
    assert starts == (4100 // (32 * segment) + 3, 2, 64, 32)
    assert maps == (*starts[:2], 64, 64)


@pytest.mark.gpu
def test_a_gpu_has_multiprocessors():
    assert launch.multiprocessors(torch.device("cuda", 0)) > 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_split_on_a_gpu(dtype):
    problem = Problem.draw(
        SPEC, CASES["gated"], 1, 4000, {"H": 1, "HV": 1, "K": 64, "V": 64},
        dtype=dtype, device="cuda", lengths=(3900, 0, 100),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "SPLIT", Split(segments=2, chunks=2))
        assert segments(problem) > 0
        got = solve(SPEC.op, problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "multiprocessors", lambda device: 0)
        want = solve(SPEC.op, problem)
    assert rel_err(got["final_state"], want["final_state"], time=None) < 0.05
    assert max(errors(got, oracle(problem), problem).values()) <= SPEC.tolerance[dtype]
