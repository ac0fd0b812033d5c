# SPDX-License-Identifier: Apache-2.0
"""What has gone wrong in kernels of the delta rule before: sizes, ranges, rounding, compilers."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from seqlib_kernels import delta_rule, delta_rule_step
from seqlib_kernels._core.launch import INTERPRETER, Launch
from seqlib_kernels.delta_rule.launch import LAUNCH
from seqlib_kernels.delta_rule.spec import SPEC
from seqlib_kernels.testing import Problem, errors, oracle, rel_err, solve

pytestmark = pytest.mark.usefixtures("fenced_memory")

CPU = pytest.param("cpu", id="cpu")
TRITON = pytest.param("triton", id="interpreted", marks=pytest.mark.interpret)
backends = pytest.mark.parametrize("backend", [CPU, TRITON])
CASES = {case.name: case for case in SPEC.cases}


def check(problem, backend) -> None:
    found = errors(solve(SPEC.op, problem, backend=backend), oracle(problem), problem)
    assert max(found.values()) <= SPEC.tolerance[problem.dtype], found


def unit(*shape, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(x, dim=-1)


# Sizes: blocks of keys of 64 were miscompiled elsewhere while 32 and 128 were right.


@pytest.mark.interpret
@pytest.mark.parametrize(
    ("K", "V"), [(8, 20), (20, 36), (36, 100), (100, 8), (32, 16), (64, 64), (128, 16), (256, 8)]
)
def test_head_sizes_in_blocks_of_64_keys(K, V):
    """Chunks of 64 rows, the last one not full, and keys that don't fill their last block."""
    row = Launch(arch=INTERPRETER, itemsize=4, width=256, tiles={"C": 64, "BK": 64, "BV": 32})
    dims = {"H": 1, "HV": 1, "K": K, "V": V}
    with LAUNCH.forced(row):
        check(Problem.draw(SPEC, CASES["gated"], 1, 70, dims, dtype=torch.float32), "triton")


@pytest.mark.gpu
@pytest.mark.parametrize("K", [20, 32, 64, 100, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["gated", "product", "normalised"])
def test_head_sizes_on_a_gpu(case, dtype, K):
    dims = {"H": 2, "HV": 2, "K": K, "V": K}
    problem = Problem.draw(SPEC, CASES[case], 1, 333, dims, dtype=dtype, device="cuda")
    check(problem, "triton")


def test_more_keys_than_a_gpu_takes():
    dims = {"H": 1, "HV": 1, "K": 300, "V": 2}
    check(Problem.draw(SPEC, CASES["gated"], 1, 20, dims, dtype=torch.float32), "cpu")


@backends
@pytest.mark.parametrize("scale", [1, 1.0, 0.3, None], ids=str)
def test_scales(backend, scale):
    """A scale of 1 that compilers take for a constant gave wrong code."""
    case = replace(CASES["gated"], options={"scale": scale})
    check(Problem.draw(SPEC, case, 1, 20, dtype=torch.float32), backend)


# Compilers.


def kernels() -> list:
    from seqlib_kernels.delta_rule import kernels as module

    names = (
        "chunk_matrices", "forward_sweep", "backward_sweep", "chunk_gradients", "join_segments"
    )  # fmt: skip
    return [getattr(module, n) for n in names]


def test_lengths_and_scale_never_choose_the_code():
    for kernel in kernels():
        free = {p.name for p in kernel.params if p.do_not_specialize and not p.is_constexpr}
        named = {p.name for p in kernel.params} & {"scale", "N", "T", "segment"}
        assert {"N", "T"} <= named
        assert free == named


# The triangular system.


def solution(k, beta, dtype) -> torch.Tensor:
    """M of one chunk of 64 rows, as the Triton kernels solve for it."""
    from seqlib_kernels.delta_rule import kernels as module

    row = Launch(arch=INTERPRETER, itemsize=4, width=256, tiles={"C": 64, "BK": 32, "BV": 16})
    k, beta = k.to(dtype), beta.to(dtype)
    with LAUNCH.forced(row):
        _, _, (M, *_) = module.delta_rule_fwd(
            k, k, k[..., :1].contiguous(), beta, None, None, None, 1.0, False, 1, True
        )
    return M[0, 0].double()


@pytest.mark.interpret
def test_inverse_with_similar_keys():
    """Powers of L reach 1e20 here and would cancel. Measured with keys of cosine 0.95, four draws:
    1.8e-5 where numpy sums products out of order, 6e-6 from the rounding of K K' alone."""
    k = unit(1, 1, 1, 32) * 0.95**0.5 + unit(1, 64, 1, 32, seed=1) * 0.05**0.5
    k = torch.nn.functional.normalize(k, dim=-1).float()
    beta = torch.full((1, 64, 1), 2.0)
    got, want = solution(k, beta, torch.float32), solution(k, beta, torch.float64)
    assert (got - want).abs().max() < 3e-5


@pytest.mark.interpret
def test_inverse_is_bounded():
    """|T| <= 2 elementwise for |k| <= 1 and beta in [0, 2], where T = I - diag(beta) M."""
    beta = 2 * torch.rand(1, 64, 1, generator=torch.Generator().manual_seed(2))
    for keys, b in (
        (unit(1, 64, 1, 8), beta),
        (unit(1, 1, 1, 8).expand(1, 64, 1, 8), 2 + 0 * beta),
    ):
        M = solution(keys.contiguous(), b, torch.float64)
        T = torch.eye(64, dtype=torch.float64) - b[0].double() * M
        assert T.abs().max() <= 2 + 1e-12


# Decays.


@backends
@pytest.mark.parametrize("decay", ["g", "alpha"])
def test_a_decay_of_one_is_none(backend, decay):
    x = Problem.draw(SPEC, CASES["plain"], 1, 40, dtype=torch.float32).inputs
    value = torch.full((1, 40, 1), 0.0 if decay == "g" else 1.0)
    got, _ = delta_rule(**x, **{decay: value}, backend=backend)
    assert torch.equal(got, delta_rule(**x, backend=backend)[0])


@backends
def test_a_logarithm_of_minus_infinity_forgets_everything(backend):
    x = Problem.draw(SPEC, CASES["gated"], 1, 20, dtype=torch.float64).inputs
    x["g"][:, ::3] = -torch.inf
    g = x["g"].requires_grad_()
    o, state = delta_rule(**x, return_final_state=True, backend=backend)
    (dg,) = torch.autograd.grad(o.sum() + state.sum(), g)
    assert dg.isfinite().all()
    assert (dg[:, ::3] == 0).all()
    tail = {n: t.detach()[:, 18:] for n, t in x.items()}  # step 18 forgets what came before
    assert rel_err(o[:, 18:], delta_rule(**tail, backend=backend)[0]) < 1e-14


# Ranges.


@backends
def test_states_beyond_float16(backend):
    """A state of 1e5, read with a small scale, and its gradient."""
    x = Problem.draw(SPEC, CASES["plain"], 1, 60, dtype=torch.float16).inputs
    x["v"] = torch.full_like(x["v"], 6e4)
    x["k"] = torch.full_like(x["k"], 0.125)
    x["beta"] = torch.ones_like(x["beta"])
    v = x["v"].requires_grad_()
    o, state = delta_rule(**x, scale=1e-2, return_final_state=True, backend=backend)
    assert state.abs().max() > 1e5
    assert o.isfinite().all()
    (dv,) = torch.autograd.grad(o.sum() * 1e-3, v)
    assert dv.isfinite().all()


@backends
def test_normalisation_of_small_and_missing_keys(backend):
    """The 1e-6 under the root: a key of length 1e-3 becomes one of length 2**-0.5, none stays 0."""
    direction = unit(1, 1, 1, 8)
    k = torch.cat([1e-3 * direction, 0 * direction], 1).requires_grad_()
    v = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    _, state = delta_rule(
        k, k, v, v[..., 0], normalize_qk=True, return_final_state=True, backend=backend
    )
    assert abs(state.norm() - 0.5**0.5) < 1e-12
    (dk,) = torch.autograd.grad(state.sum(), k)
    assert dk.isfinite().all()


@backends
# numpy, which interprets kernels, says so where a product of infinities is none.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_in_its_sequence(backend, value):
    """Masked rows of a chunk must be zeros, not products with zeros."""
    problem = Problem.draw(SPEC, CASES["gated"], 1, 30, dtype=torch.float32, lengths=(9, 12, 9))
    want = solve(SPEC.op, problem, backend=backend)
    for name in problem.inputs:
        spoilt = {n: x.clone() for n, x in problem.inputs.items()}
        spoilt[name][:, 9:21] = value
        got = solve(SPEC.op, replace(problem, inputs=spoilt), backend=backend)
        assert not got["output"][:, 9:21].isfinite().all(), f"what was in {name} vanished"
        for n, x in got.items():
            time = n not in ("final_state", "d_initial_state")
            for part in (slice(0, 9), slice(21, 30)) if time else (slice(0, 1), slice(2, 3)):
                at = (slice(None), part) if time else part
                assert torch.equal(x[at], want[n][at]), (name, n)


# Generation.


@pytest.mark.parametrize("case", ["gated", "product", "grouped", "normalised"])
def test_any_prefill_and_steps(case):
    case = CASES[case]
    problem = Problem.draw(SPEC, case, 1, 20, dtype=torch.float32)
    options = {**case.options, "initial_state": problem.initial_state, "return_final_state": True}
    whole, last = delta_rule(**problem.inputs, **options)
    for t in range(20):
        o, state = delta_rule(**case.tokens(problem.inputs, 0, t), **options)
        outputs = [o]
        for i, j in pairwise(range(t, 21)):
            x = case.tokens(problem.inputs, i, j)
            o, state = delta_rule_step(**x, **case.options, state=state)
            outputs.append(o)
        assert rel_err(torch.cat(outputs, 1), whole) < 2e-6
        assert rel_err(state, last, time=None) < 2e-6
