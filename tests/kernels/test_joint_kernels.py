# SPDX-License-Identifier: Apache-2.0
"""Sizes at which the Triton kernels of joint_attention take another way through their tiles."""

from dataclasses import replace

import pytest
import torch
from seqlib_kernels._core.launch import INTERPRETER
from seqlib_kernels.fsmn.attention.launch import LAUNCH
from seqlib_kernels.fsmn.attention.spec import SPEC
from seqlib_kernels.testing import TOL, Problem, errors, oracle, rel_err, solve

pytestmark = [pytest.mark.usefixtures("fenced_memory"), pytest.mark.interpret]

CASES = {case.name: case for case in SPEC.cases}
each_case = pytest.mark.parametrize("name", ["local", "causal", "causal by group"])
(ROW,) = LAUNCH.rows_of(INTERPRETER)
F64 = torch.float64


def draw(name, T, B=1, *, E=3, S=6, lengths=None, dtype=F64, **options):
    problem = Problem.draw(SPEC, CASES[name], B, T, {"E": E, "S": S}, dtype=dtype, lengths=lengths)
    case = replace(problem.case, options={**problem.case.options, **options})
    return replace(problem, case=case)


def assert_right(problem, bound=None):
    found = errors(solve(SPEC.op, problem, backend="triton"), oracle(problem), problem)
    bound = bound or SPEC.tolerance[problem.dtype]
    assert not max(found.values()) > bound, found


@each_case
@pytest.mark.parametrize("lengths", [None, (40, 0, 13)], ids=["batch", "packed"])
def test_groups_wider_than_a_tile_of_frames(name, lengths):
    """Weights are made block by block; causal, blocks beyond the diagonal are left out."""
    G = 2 * ROW.tiles["BK"] + 5
    assert_right(draw(name, 53, lengths=lengths, group_size=G))


@each_case
def test_more_columns_and_channels_than_a_program_takes(name):
    """E is no multiple of what a program takes, S none of a block of channels."""
    E, S = ROW.tiles["COLUMNS"] + 8, 2 * ROW.tiles["BS"] + 5
    assert_right(draw(name, 21, E=E, S=S, group_size=18))


@each_case
def test_dropout_of_groups_wider_than_a_tile(name):
    keep = torch.rand(2, 45, 40, generator=torch.Generator().manual_seed(1)) >= 0.3
    assert_right(draw(name, 45, 2, group_size=40, keep=keep, keep_scale=1 / 0.7))


@pytest.mark.parametrize("lengths", [None, (30, 2, 43)], ids=["batch", "packed"])
def test_a_memory_of_several_pieces(lengths, monkeypatch):
    from seqlib_kernels.fsmn.attention import kernels

    monkeypatch.setattr(kernels, "SPAN", 32)
    assert_right(draw("local", 75 if lengths else 65, lengths=lengths, group_size=16))


def test_angles_of_a_million_turns():
    """What a recording of a quarter of an hour reaches; angles as float32 products fail."""
    freqs = torch.tensor([1e5, 33333.3, 1.0], dtype=F64)
    problem = draw("local", 40, group_size=8, freqs=freqs, dtype=torch.float32)
    assert_right(problem)
    angles = torch.arange(40.0)[:, None] * freqs.float()
    exact = torch.arange(40.0, dtype=F64)[:, None] * freqs
    assert rel_err(angles.cos(), exact.cos(), time=None) > 100 * TOL[torch.float32] * 2**-23
