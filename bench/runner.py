# SPDX-License-Identifier: Apache-2.0
"""Runs a suite: draws the inputs, checks every contender on them, times those that are right."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from seqlib_kernels._core.spec import OpSpec

from . import environment
from .contender import Contender
from .device import Device
from .entry import Entry, enter, time_in_turns
from .oracle import solve
from .records import Row
from .suites import Suite
from .workloads import Problem, Workload, load_spec, make_problem


def run_suite(
    name: str,
    suite: Suite,
    device: Device,
    contenders: Mapping[str, Sequence[Contender]],
    *,
    emit: Callable[[list[Row]], None],
    say: Callable[[str], None],
    spec_of: Callable[[str], OpSpec] = load_spec,
) -> bool:
    """Run every workload; `emit` gets its rows, `say` remarks. Returns whether ours are right."""
    threads = [n for n in suite.threads if n <= _cores()]
    for n in sorted(set(suite.threads) - set(threads)):
        say(f"not timed with {n} threads: there is room for {_cores()}")
    commit, dirty = environment.commit()
    origin = {"suite": name, "commit": commit, "dirty": dirty, **environment.versions()}
    right = True

    def run(workload: Workload) -> Iterator[list[Row]]:
        device.set_threads(max(threads))
        problem = make_problem(workload, spec_of(workload.op), device.torch_device)
        want = solve(problem)
        for n in threads:
            device.set_threads(n)
            field = [
                contender
                for contender in contenders[workload.op]
                if contender.device in (None, device.kind)
                if n == threads[0] or not contender.one_thread
                if suite.compiled or not contender.compiled
            ]
            shared = origin | _shared(problem, device, n)
            entries = enter(problem, want, field, device, say)
            time_in_turns(entries, device, suite.seconds)
            yield [row for entry in entries for row in _rows(entry, problem, device, shared)]

    for workload in suite.workloads:
        if any(contender.compiled for contender in contenders[workload.op]):
            torch.compiler.reset()  # each shape has graphs of its own: no guesses at dynamic ones
        for rows in run(workload):
            right = right and all(row.status == "ok" for row in rows if row.ours)
            emit(rows)
    return right


def _shared(problem: Problem, device: Device, threads: int) -> dict[str, Any]:
    """What the rows of one workload and thread count have in common."""
    workload = problem.workload
    ceilings = device.ceilings(getattr(torch, workload.dtype))
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "op": workload.op,
        "case": workload.case,
        "shape": workload.shape,
        "dtype": workload.dtype,
        "threads": threads,
        "clock": device.clock,
        "copy_bytes_per_s": ceilings.copy_bytes_per_s,
        "gemm_flops_per_s": ceilings.flops_per_s,
        "device_kind": device.kind,
        **device.facts(),
    }


def _rows(
    entry: Entry, problem: Problem, device: Device, shared: Mapping[str, Any]
) -> Iterator[Row]:
    contender = entry.contender
    for mode, (moved, flops) in _costs(problem).items():
        times = entry.times.get(mode)
        if times is None and entry.status == "ok":
            continue  # a backward pass that can't be told apart from the forward pass
        floor = max(moved / shared["copy_bytes_per_s"], flops / shared["gemm_flops_per_s"])
        headline = None if times is None else getattr(times, device.headline)
        yield Row(
            **shared,
            contender=contender.name,
            ours=contender.ours,
            version=environment.version(contender.distribution),
            mode=mode,
            status=entry.status,
            message=entry.message,
            errors=dict(entry.errors),
            headline_s=headline,
            best_s=None if times is None else times.best,
            median_s=None if times is None else times.median,
            p20_s=None if times is None else times.p20,
            p80_s=None if times is None else times.p80,
            samples=0 if times is None else times.samples,
            first_call_s=entry.first_call.get(mode),
            peak_bytes=entry.peak.get(mode),
            moved_bytes=moved,
            flops=flops,
            floor_s=floor,
            roofline=None if headline is None else floor / headline,
            launch=entry.launch,
        )


def _costs(problem: Problem) -> dict[str, tuple[float, float]]:
    """Least bytes moved and operations, by mode."""
    spec, workload = problem.spec, problem.workload
    size = (workload.B, workload.T, workload.dims, problem.case.options)
    itemsize = problem.cotangent.element_size()
    forward = spec.bytes(*size, itemsize), spec.flops(*size)
    backward = spec.backward_bytes(*size, itemsize), spec.backward_flops(*size)
    both = forward[0] + backward[0], forward[1] + backward[1]
    return {"forward": forward, "backward": backward, "both": both}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
