# SPDX-License-Identifier: Apache-2.0
"""Boundaries of packed sequences: where they may lie, when they are looked at and copied."""

import gc
import sys
from dataclasses import replace

import pytest
import torch
from seqlib_kernels import testing
from seqlib_kernels._core import varlen
from seqlib_kernels._core.varlen import check_boundaries, check_cu_seqlens, on_device
from seqlib_kernels.testing import Problem, errors, oracle, solve

META = torch.empty(1, 5, 3, device="meta")
each_spec = pytest.mark.parametrize("spec", testing.SPECS, ids=lambda spec: spec.name)


def bounds(*values) -> torch.Tensor:
    return torch.tensor(values or (0, 2, 5))


@pytest.fixture
def copied(monkeypatch) -> list[torch.Tensor]:
    """The copies that were made."""
    made, copy = [], varlen._copy
    monkeypatch.setattr(varlen, "_copy", lambda *args: made.append(copy(*args)) or made[-1])
    return made


def test_boundaries_lie_beside_the_inputs_or_on_the_cpu():
    assert check_cu_seqlens(bounds(), 1, META) == 2
    assert check_cu_seqlens(bounds().to("meta"), 1, META) == 2
    with pytest.raises(ValueError, match="device of the inputs, cpu, or on the CPU, got meta"):
        check_cu_seqlens(bounds().to("meta"), 1, torch.empty(1))


def test_boundaries_beside_the_inputs_are_used_as_they_are(copied):
    for cu_seqlens, x in ((None, META), (bounds(), torch.empty(1)), (bounds().to("meta"), META)):
        assert on_device(cu_seqlens, x) is cu_seqlens
    assert not copied


def test_boundaries_are_copied_once(copied):
    cu_seqlens = bounds()
    first = on_device(cu_seqlens, META)
    assert first.device.type == "meta"
    assert first.dtype == cu_seqlens.dtype
    assert on_device(cu_seqlens, META) is first
    assert len(copied) == 1
    assert on_device(bounds(), META) is not first  # another tensor of the same values


def test_boundaries_changed_in_place_are_copied_again(copied):
    cu_seqlens = bounds()
    first = on_device(cu_seqlens, META)
    cu_seqlens[1] = 3
    assert on_device(cu_seqlens, META) is not first
    assert on_device(cu_seqlens, META) is copied[1]
    assert len(copied) == 2


def test_copies_go_with_their_boundaries():
    gc.collect()
    before = len(varlen._copies), len(varlen._valid)
    cu_seqlens = bounds()
    check_boundaries(cu_seqlens, 5)
    on_device(cu_seqlens, META)
    assert (len(varlen._copies), len(varlen._valid)) == (before[0] + 1, before[1] + 1)
    del cu_seqlens
    gc.collect()
    assert (len(varlen._copies), len(varlen._valid)) == before


def test_values_are_looked_at_once_per_version_and_length(monkeypatch):
    looks = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: looks.append(1) or tolist(x))
    cu_seqlens = bounds()
    check_boundaries(cu_seqlens, 5)
    check_boundaries(cu_seqlens, 5)
    assert len(looks) == 1
    with pytest.raises(ValueError, match="cu_seqlens must end at T=6, got 5"):
        check_boundaries(cu_seqlens, 6)
    cu_seqlens[1] = 6
    with pytest.raises(ValueError, match="cu_seqlens must not decrease, got 6 then 5"):
        check_boundaries(cu_seqlens, 5)


def test_tensors_of_inference_mode_are_looked_at_every_time(copied):
    """Nobody counts their changes."""
    with torch.inference_mode():
        cu_seqlens = bounds()
        check_boundaries(cu_seqlens, 5)
        on_device(cu_seqlens, META)
        cu_seqlens[1] = 6
        with pytest.raises(ValueError, match="cu_seqlens must not decrease"):
            check_boundaries(cu_seqlens, 5)
        on_device(cu_seqlens, META)
    assert len(copied) == 2


@each_spec
def test_results_follow_boundaries_changed_in_place(spec):
    problem = Problem.draw(spec, spec.cases[0], 1, 9, lengths=(4, 5))
    before = solve(spec.op, problem)
    problem.cu_seqlens[1] = 7
    after = solve(spec.op, problem)
    assert not torch.equal(after["output"], before["output"])
    found = errors(after, oracle(problem), problem)
    assert max(found.values()) <= spec.tolerance[problem.dtype], found


@each_spec
def test_ops_in_inference_mode(spec):
    case = spec.cases[0]
    problem = Problem.draw(spec, case, 1, 5, lengths=(2, 3))
    want, _ = spec.op(**problem.inputs, **case.options, cu_seqlens=problem.cu_seqlens)
    with torch.inference_mode():
        bounds = problem.cu_seqlens.clone()
        got, _ = spec.op(**problem.inputs, **case.options, cu_seqlens=bounds)
    assert torch.equal(got, want)


@each_spec
def test_both_passes_bring_the_same_tensor(spec, monkeypatch):
    """What autograd hands to the backward pass is the tensor that the caches know."""
    seen = []
    family = spec.op.__module__.removesuffix("op")
    for name, module in list(sys.modules.items()):
        if name.startswith(family) and hasattr(module, "on_device"):
            monkeypatch.setattr(module, "on_device", lambda c, x: seen.append(c) or on_device(c, x))
    problem = Problem.draw(spec, spec.cases[0], 1, 5, lengths=(2, 3))
    solve(spec.op, problem)
    assert len(seen) == 2
    assert all(c is problem.cu_seqlens for c in seen)


@each_spec
def test_boundaries_on_the_cpu_are_checked(spec):
    """The values of those of another device can't be known without it; these can."""
    inputs = Problem.draw(spec, spec.cases[0], 1, 5).inputs
    away = {n: x.to("meta") for n, x in inputs.items()}
    with pytest.raises(ValueError, match="cu_seqlens must end at T=5, got 4"):
        spec.op(**away, **spec.cases[0].options, cu_seqlens=bounds(0, 4))


@pytest.mark.gpu
@each_spec
def test_boundaries_on_the_cpu_of_gpu_inputs(spec, copied):
    problem = Problem.draw(
        spec, spec.cases[0], 1, 50, dtype=torch.float32, device="cuda", lengths=(20, 0, 30)
    )
    want = solve(spec.op, problem)  # compiles
    cpu = problem.cu_seqlens.cpu()
    inputs = {n: x.detach().requires_grad_() for n, x in problem.inputs.items()}
    if not problem.case.stateless:
        inputs["initial_state"] = problem.initial_state
    torch.cuda.set_sync_debug_mode("error")
    try:
        output, _ = spec.op(**inputs, **problem.case.options, cu_seqlens=cpu)
        cpu[1] = 10  # after the copy was made, whether or not it has arrived
        output.detach()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(output, want["output"])
    assert len(copied) == 1


@pytest.mark.gpu
@each_spec
def test_gradients_with_boundaries_on_the_cpu(spec, copied):
    problem = Problem.draw(
        spec, spec.cases[0], 1, 50, dtype=torch.float32, device="cuda", lengths=(20, 0, 30)
    )
    problem = replace(problem, cu_seqlens=problem.cu_seqlens.cpu())
    found = errors(solve(spec.op, problem), oracle(problem), problem)
    assert max(found.values()) <= spec.tolerance[torch.float32], found
    assert len(copied) == 1


@pytest.mark.gpu
@each_spec
def test_boundaries_on_the_cpu_are_refused_in_a_graph(spec):
    problem = Problem.draw(spec, spec.cases[0], 1, 5, dtype=torch.float32, device="cuda")
    with (
        pytest.raises(ValueError, match="while a CUDA graph is captured"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        spec.op(**problem.inputs, cu_seqlens=bounds())
