# SPDX-License-Identifier: Apache-2.0
"""What mamba-ssm's kernels are given, seen by a stand-in: they need a GPU."""

import sys
from types import SimpleNamespace

import pytest
import torch
from seqlib_kernels.selective_scan.reference import selective_scan
from seqlib_kernels.ssd.reference import ssd

from bench import gate
from bench.device import ignore_mark
from bench.oracle import solve
from bench.peers import CONTENDERS
from bench.workloads import Workload, load_spec, make_problem


def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """[B, D, T] for all that has a time; B and C [B, N, T] or [B, G, N, T]."""
    assert all(x.is_contiguous() for x in (u, delta, B, C))
    u, delta, B, C = (x.movedim(-1, 1) for x in (u, delta, B, C))
    y, _ = selective_scan(u, delta, A, B, C, D, dt_bias=delta_bias, dt_softplus=delta_softplus)
    return y.movedim(1, -1)


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None,
    cu_seqlens=None, dt_softplus=False,
):  # fmt: skip
    assert chunk_size == 256
    return ssd(x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=dt_softplus)[0]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    for module, function in (
        ("ops.selective_scan_interface", selective_scan_fn),
        ("ops.triton.ssd_combined", mamba_chunk_scan_combined),
    ):
        stand_in = SimpleNamespace(**{function.__name__: function})
        monkeypatch.setitem(sys.modules, f"mamba_ssm.{module}", stand_in)


@pytest.mark.parametrize(
    ("op", "case", "dims", "answer"),
    [
        ("selective_scan", "plain", {"D": 6, "N": 3}, None),
        ("selective_scan", "mixer", {"D": 6, "N": 3}, "no signed decay"),
        ("ssd", "positive", {"H": 4, "G": 2, "P": 5, "N": 3}, None),
        ("ssd", "negative", {"H": 4, "G": 2, "P": 5, "N": 3}, "no signed decay"),
        ("ssd", "alpha", {"H": 4, "G": 2, "P": 5, "N": 3}, "no signed decay"),
    ],
)
def test_they_compute_the_op_or_say_why_not(op, case, dims, answer):
    (peer,) = (c for c in CONTENDERS[op] if c.module == "mamba_ssm")
    workload = Workload(op=op, case=case, B=2, T=9, dims=dims)
    problem = make_problem(workload, load_spec(op), torch.device("cpu"))
    assert peer.refuses(problem) == answer
    if answer is None:
        want, call = solve(problem), peer.prepare(problem)
        found = gate.errors(call.result(call.training(ignore_mark)), want, problem.case.constants)
        found["inference"] = gate.error(call.output(call.forward()), want.output)
        assert max(found.values()) < 1e-5, found
