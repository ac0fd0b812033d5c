# SPDX-License-Identifier: Apache-2.0
"""The CPU suite tracks the shapes that published CPU timings of the ops have."""

import pytest

from bench.suites import OPS, SUITES


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (
            "linear_scan",
            [(2, 1024, 256), (4, 2048, 512), (4, 4096, 1024), (1, 65536, 256)],
        ),
        ("delta_rule", [(1, 2048, 4, 4, 64, 64)]),
        ("selective_scan", [(1, 512, 512, 16), (1, 1024, 512, 16), (1, 4096, 512, 16)]),
        ("ssd", [(1, 2048, 8, 1, 64, 128)]),
    ],
)
def test_shapes_that_are_tracked(op, shapes):
    suite = SUITES["cpu"]
    assert suite.threads == (1, 2)
    found = [tuple(w.shape.values()) for w in suite.workloads if w.op == op]
    assert set(shapes) <= set(found)


@pytest.mark.parametrize("name", SUITES)
def test_every_op_is_in_every_suite(name):
    assert {workload.op for workload in SUITES[name].workloads} == set(OPS)


def test_no_workload_stands_twice():
    for suite in SUITES.values():
        lines = [str(workload) for workload in suite.workloads]
        assert len(lines) == len(set(lines))
