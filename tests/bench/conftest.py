# SPDX-License-Identifier: Apache-2.0
"""A device without clocks or chips, and rows as a run writes them."""

import dataclasses
import time
from typing import Any

import pytest
import torch

from bench.device import Ceilings, ignore_mark
from bench.gpu import Gpu
from bench.records import Row
from bench.suites import Suite
from bench.timing import Sample
from bench.workloads import Workload


class CountingDevice:
    """The CPU with a counting clock: sample number n takes n ms, half of it backward."""

    kind = "cpu"
    clock = "count"
    headline = "best"
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        self.samples = 0
        self.threads: list[int] = []

    def set_threads(self, threads: int) -> None:
        self.threads.append(threads)

    def synchronize(self) -> None:
        pass

    def sample(self, run) -> Sample:
        marks = []
        run(lambda: marks.append(True))
        self.samples += 1
        return Sample(self.samples / 1e3, self.samples / 2e3 if marks else None)

    def peak_bytes(self, run) -> int | None:
        run(ignore_mark)
        return 4096

    def ceilings(self, dtype: torch.dtype) -> Ceilings:
        return Ceilings(copy_bytes_per_s=1e9, flops_per_s=1e12)

    def facts(self) -> dict[str, Any]:
        return {"device": "counter", "driver": None, "allocator": "default", "load": 0.5}


class StandInCuda:
    """What the benchmark uses of `torch.cuda`, on the host's clock."""

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing, "an event without timing measures nothing"
            self.at: float | None = None

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, end: "StandInCuda.Event") -> float:
            assert self.at is not None
            assert end.at is not None, "an event that was never recorded"
            return (end.at - self.at) * 1e3

    def __init__(self) -> None:
        self.waits = 0
        self.allocated = 1000
        self.peak = 5000

    def synchronize(self) -> None:
        self.waits += 1

    def memory_allocated(self) -> int:
        return self.allocated

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.allocated + 234

    def max_memory_allocated(self) -> int:
        return self.peak

    def get_device_name(self) -> str:
        return "Stand-in 9000"


@pytest.fixture(autouse=True)
def same_threads():
    """A run sets PyTorch's thread count; other tests shall not notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def device() -> CountingDevice:
    return CountingDevice()


@pytest.fixture
def cuda() -> StandInCuda:
    return StandInCuda()


@pytest.fixture
def gpu(cuda) -> Gpu:
    return Gpu(cuda, "cpu", flush_bytes=1024, matrix=8)


@pytest.fixture
def suite() -> Suite:
    scan = Workload(op="linear_scan", case="real", B=2, T=7, dims={"D": 3})
    return Suite(device="cpu", seconds=0.0, workloads=(scan,))


@pytest.fixture
def row() -> Row:
    return Row(
        time="2026-01-02T03:04:05Z",
        suite="cpu",
        op="linear_scan",
        case="real",
        shape={"B": 2, "T": 7, "D": 3},
        dtype="float32",
        contender="seqlib cpu",
        ours=True,
        version="0.1.0",
        mode="both",
        threads=1,
        status="ok",
        message=None,
        errors={"output": 1e-7, "da": 3e-7},
        clock="process CPU time",
        headline_s=2e-3,
        best_s=2e-3,
        median_s=3e-3,
        p20_s=2.5e-3,
        p80_s=4e-3,
        samples=30,
        first_call_s=1.5,
        peak_bytes=3 * 2**20,
        moved_bytes=1e6,
        flops=1e5,
        copy_bytes_per_s=1e9,
        gemm_flops_per_s=1e12,
        floor_s=1e-3,
        roofline=0.5,
        launch=[],
        device_kind="cpu",
        device="A processor",
        driver=None,
        allocator="mallopt",
        load=0.25,
        commit="0123456789abcdef0123456789abcdef01234567",
        dirty=False,
        python="3.11.0",
        torch="2.13.0",
        triton=None,
        numba="0.68.1",
        numpy="2.4.6",
    )


@pytest.fixture
def rows(row) -> list[Row]:
    """Ours, a peer that is right and one that is wrong, each forward and both."""

    def pair(name: str, ours: bool, forward_s: float | None, both_s: float | None, **more) -> list:
        times = (("forward", forward_s), ("both", both_s))
        named = {"contender": name, "ours": ours, **more}
        return [
            dataclasses.replace(row, **named, mode=mode, headline_s=s, best_s=s)
            for mode, s in times
        ]

    return [
        *pair("seqlib cpu", True, 1e-3, 2e-3),
        *pair("slow peer", False, 4e-3, 9e-3, version="3.2.1"),
        *pair("wrong peer", False, None, None, status="wrong", message="da is off by 3.0e-01"),
    ]
