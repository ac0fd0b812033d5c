# SPDX-License-Identifier: Apache-2.0
"""The tables of the search, how a row is changed, and its text."""

import inspect
from pathlib import Path

import pytest
from seqlib_kernels._core.launch import INTERPRETER, Launch

from bench.candidates import SPACES, Step, around
from bench.launch_rows import OPTIONS, changed, difference, text
from bench.suites import OPS
from bench.workloads import load_spec

ROW = Launch(
    arch="sm_90",
    itemsize=2,
    width=1 << 30,
    tiles={"BT": 16, "BD": 32},
    num_warps=8,
    per_kernel={"sweep": {"num_stages": 3}, "sweep split": {"num_stages": 2}},
)
STORED = [
    pytest.param(op, row, id=f"{op} {row.arch} {row.itemsize} {row.width}")
    for op in OPS
    for row in load_spec(op).launch.rows
    if row.arch != INTERPRETER
]


def test_every_op_has_a_search():
    assert set(SPACES) == set(OPS)


@pytest.mark.parametrize(("op", "row"), STORED)
def test_searches_are_bounded_and_keep_the_promise_of_exact_cuts(op, row):
    space, spec = SPACES[op], load_spec(op)
    assert 0 < around(space, row) <= 24
    rows = [candidate for step in space.steps for candidate in step.candidates(row)]
    for candidate in rows:
        assert candidate != row
        assert set(candidate.tiles) == set(row.tiles)
        cut = spec.exact_cut.get("triton", 1)
        for tile in {"BT", "C"} & set(candidate.tiles):
            assert cut == 1 or cut % candidate.tiles[tile] == 0  # 1: whatever the tiles are


@pytest.mark.parametrize("op", OPS)
def test_names_in_searches_exist(op):
    space = SPACES[op]
    folder = Path(inspect.getfile(load_spec(op).op)).parent
    source = "".join(path.read_text() for path in folder.glob("kernels*.py"))
    tiles = set(load_spec(op).launch.rows[0].tiles)
    for step in space.steps:
        assert f'"{step.kernel}"' in source or f"def {step.kernel}(" in source or not step.kernel
        assert {name for change in step.changes for name in change} <= tiles | set(OPTIONS)
    sizes = {name for case in load_spec(op).cases for name in case.small}
    assert {space.width, *space.small} <= sizes


@pytest.mark.parametrize(("op", "row"), STORED)
def test_text_is_the_row(op, row):
    candidates = [c for step in SPACES[op].steps for c in step.candidates(row)]
    for each in (row, *candidates):
        assert eval(text(each), {"Launch": Launch}) == each
        assert max(map(len, text(each).splitlines())) <= 92  # eight spaces before


def test_text_reads_as_in_a_launch_file():
    short = Launch(arch="sm_90", itemsize=2, width=1 << 30, tiles={"BT": 32, "BD": 64})
    assert text(short) == (
        'Launch(arch="sm_90", itemsize=2, width=1 << 30, tiles={"BT": 32, "BD": 64})'
    )
    assert text(ROW).splitlines()[:3] == ["Launch(", '    arch="sm_90",', "    itemsize=2,"]


def test_a_change_for_all_kernels_leaves_nothing_that_says_the_same():
    assert changed(ROW, {}) == ROW
    wider = changed(ROW, {"BD": 64, "num_stages": 3})
    assert wider.tiles == {"BT": 16, "BD": 64}
    assert (wider.num_warps, wider.num_stages) == (8, 3)
    assert wider.per_kernel == {"sweep split": {"num_stages": 2}}


def test_a_change_for_one_kernel_is_its_own():
    one = changed(ROW, {"num_warps": 4}, "gradients")
    assert one.num_warps == 8
    assert one.per_kernel == {**ROW.per_kernel, "gradients": {"num_warps": 4}}
    assert changed(one, {"num_warps": 8}, "gradients") == ROW
    # "sweep split" stays: without it the form would have the three stages of "sweep"
    assert changed(ROW, {"num_stages": 2}, "sweep split") == ROW


def test_steps_leave_out_the_row_itself():
    step = Step(({"BD": 32}, {"BD": 64}, {"BD": 64}))
    assert [row.tiles["BD"] for row in step.candidates(ROW)] == [64]


def test_differences_are_said():
    other = changed(changed(ROW, {"BT": 32, "num_warps": 4}), {"num_warps": 2}, "gradients")
    assert difference(other, ROW) == "BT=32, num_warps=4, gradients: num_warps=2"
    assert difference(ROW, other) == "BT=16, num_warps=8, gradients: as all"
    assert difference(ROW, ROW) == "the same"
