# SPDX-License-Identifier: Apache-2.0
"""The GPU path without a GPU: a stand-in for `torch.cuda` on CPU tensors."""

import dataclasses
import time

import pytest
import torch

from bench import suites
from bench.contender import ours
from bench.runner import run_suite
from bench.workloads import load_spec


def test_samples_are_split_at_the_mark_and_waited_for(gpu, cuda):
    def run(mark):
        time.sleep(0.002)
        mark()
        time.sleep(0.004)

    sample = gpu.sample(run)
    assert cuda.waits == 1
    assert sample.total >= 0.006
    assert 0.004 <= sample.after_mark <= sample.total - 0.002


def test_without_a_mark_there_is_no_second_part(gpu):
    assert gpu.sample(lambda mark: None).after_mark is None


def test_the_cache_is_cleared_before_the_clock_starts(gpu):
    gpu._flush.fill_(7)
    seen = []
    gpu.sample(lambda mark: seen.append(gpu._flush.abs().sum().item()))
    assert seen == [0]


def test_peak_memory_is_what_comes_on_top(gpu):
    assert gpu.peak_bytes(lambda mark: None) == 234


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_ceilings_are_finite(gpu, dtype):
    found = gpu.ceilings(dtype)
    assert 0 < found.copy_bytes_per_s < float("inf")
    assert 0 < found.flops_per_s < float("inf")


def test_facts_name_the_device(gpu):
    assert gpu.facts()["device"] == "Stand-in 9000"


# Where 16 does not do: an odd number of taps, and no fewer channels than turn.
LARGEST = {"W": 15, "S": 32}


@pytest.mark.parametrize("name", ["gpu-quick", "gpu"])
def test_every_gpu_workload_runs_when_it_is_small(name, gpu):
    """All but the length and the batch as in the suite, on the CPU backend in place of Triton's."""
    suite = suites.SUITES[name]
    small = tuple(
        dataclasses.replace(
            w, B=1, T=5, dims={n: min(size, LARGEST.get(n, 16)) for n, size in w.dims.items()}
        )
        for w in suite.workloads
    )
    contender = dataclasses.replace(ours("cpu", "cuda"), name="seqlib triton")
    rows = []
    right = run_suite(
        name,
        dataclasses.replace(suite, workloads=small, seconds=0.0),
        gpu,
        dict.fromkeys(suites.OPS, (contender,)),
        emit=rows.extend,
        say=print,
    )
    assert right
    assert len(rows) == 3 * len(small)
    assert all(row.headline_s == row.median_s for row in rows)
    assert {row.clock for row in rows} == {"device events"}


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_workload_has_a_case_and_a_cost(name):
    for workload in suites.SUITES[name].workloads:
        spec = load_spec(workload.op)
        case = next(case for case in spec.cases if case.name == workload.case)
        size = (workload.B, workload.T, workload.dims, case.options)
        assert spec.flops(*size) > 0
        assert spec.backward_flops(*size) > spec.flops(*size)
        assert spec.backward_bytes(*size, 2) > spec.bytes(*size, 2) > 0


def test_the_published_memory_floor_is_the_one_we_report():
    """32 heads x 32,768 tokens of 1032 bytes at 4.8 TB/s: 0.225 ms."""
    workload = next(
        w for w in suites.SUITES["gpu"].workloads if w.T == 32768 and w.dims["HV"] == 32
    )
    spec = load_spec(workload.op)
    moved = spec.bytes(workload.B, workload.T, workload.dims, {}, 2)
    assert moved / 4.8e12 == pytest.approx(0.225e-3, rel=0.02)
