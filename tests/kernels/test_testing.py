# SPDX-License-Identifier: Apache-2.0
"""The yardstick itself: `rel_err` sees what it should, and `check_kernels` fails when it should."""

from dataclasses import replace

import pytest
import torch
from seqlib_kernels import linear_scan
from seqlib_kernels.linear_scan.spec import SPEC
from seqlib_kernels.testing import SPECS, check_kernels, rel_err

NAN, INF = float("nan"), float("inf")


def test_rel_err_is_the_worst_step():
    want = torch.ones(2, 100, 8)
    got = want.clone()
    got[:, 40] = 0  # one step of a hundred
    assert rel_err(got, want) == pytest.approx(1)
    assert rel_err(got, want, time=None) == pytest.approx(0.1)
    assert rel_err(want, want) == 0


def test_rel_err_of_nan_and_inf():
    want = torch.tensor([[1.0, NAN, INF, 2.0]])
    assert rel_err(want.clone(), want) == 0
    for wrong in ([NAN, NAN, INF, 2], [1, 0, INF, 2], [1, NAN, -INF, 2], [1, NAN, 3, 2]):
        assert rel_err(torch.tensor([wrong], dtype=torch.float32), want) == INF


def test_rel_err_of_complex_numbers():
    want = torch.ones(1, 3, 2, dtype=torch.complex64)
    assert rel_err(want * 1j, want) == pytest.approx(2**0.5)


def test_rel_err_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"got \(1, 3\) and \(3, 1\)"):
        rel_err(torch.ones(1, 3), torch.ones(3, 1))


def test_check_kernels_on_the_cpu():
    report = check_kernels("cpu")
    assert len(report.rows) == sum(len(case.dtypes) for spec in SPECS for case in spec.cases)
    assert not report.failures
    words = [line.split() for line in str(report).splitlines()]
    assert ["linear_scan", "complex", "reverse", "cpu", "-", "complex64"] in [w[:6] for w in words]


@pytest.mark.interpret
def test_check_kernels_in_the_interpreter():
    case = replace(SPEC.cases[1], dtypes=(torch.float64, torch.bfloat16))
    report = check_kernels("cpu", backend="triton", specs=[replace(SPEC, cases=(case,))], length=9)
    assert len({launch for _, _, launch, *_ in report.rows}) == 2
    assert len(report.rows) == 4


def test_check_kernels_reports_what_is_wrong():
    def forgetful(a, b, *, initial_state=None, **options):
        return linear_scan(a, b, **options)

    def wrong(a, b, **options):
        h, state = linear_scan(a, b, **options)
        return h, state + 1e-3

    for op in (forgetful, wrong):
        cases = [replace(case, dtypes=case.dtypes[:2]) for case in SPEC.cases]
        wide = replace(SPEC, op=op, cases=tuple(cases))
        with pytest.raises(AssertionError, match=r"8 of 8 checks failed\nop .*\nlinear_scan"):
            check_kernels("cpu", specs=[wide])
