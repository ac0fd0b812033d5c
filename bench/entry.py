# SPDX-License-Identifier: Apache-2.0
"""Contenders on one problem: their first calls, the gate, then their times."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from seqlib_kernels._core.launch import Launch
from seqlib_kernels._core.spec import OpSpec

from . import gate
from .contender import Call, Contender
from .device import Device, ignore_mark
from .oracle import Result
from .timing import Summary, summarise, take_turns
from .workloads import Problem


@dataclass
class Entry:
    """A contender in one workload: what its first calls gave, then its times by mode."""

    contender: Contender
    call: Call | None = None
    status: str = "ok"
    message: str | None = None
    errors: dict[str, float] = field(default_factory=dict)
    first_call: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int | None] = field(default_factory=dict)
    launch: list[str] = field(default_factory=list)
    times: dict[str, Summary] = field(default_factory=dict)


def enter(
    problem: Problem,
    want: Result,
    contenders: Sequence[Contender],
    device: Device,
    say: Callable[[str], None],
) -> list[Entry]:
    """Check all contenders that can take part; `say` hears why others can't and what is wrong."""
    entries = []
    for contender in contenders:
        why_not = contender.problem_with(problem)
        if why_not is not None:
            say(f"{contender.name} left out: {why_not}")
            continue
        entry = Entry(contender)
        try:
            _check(entry, problem, want, device)
        except Exception as error:  # whatever a peer raises is its own row's business
            entry.status, entry.call = "failed", None
            text = str(error).strip().split("\n")[0]
            entry.message = f"{type(error).__name__}: {text}"[:300]
        if entry.status != "ok":
            say(f"{contender.name} {entry.status}: {entry.message}")
        entries.append(entry)
    return entries


def _check(entry: Entry, problem: Problem, want: Result, device: Device) -> None:
    """The first calls, their latency and memory, and the gate."""
    with _launches(problem.spec) as used:
        call = entry.contender.prepare(problem)
        output, entry.first_call["forward"] = _first(call.forward, device)
        result, entry.first_call["both"] = _first(lambda: call.training(ignore_mark), device)
    entry.launch = sorted(used)
    entry.errors = {"inference": gate.error(call.output(output), want.output)}
    entry.errors |= gate.errors(call.result(result), want, problem.case.constants)
    del output, result
    entry.message = gate.verdict(entry.errors, getattr(torch, problem.workload.dtype))
    if entry.message is not None:
        entry.status = "wrong"
        return
    entry.peak["forward"] = device.peak_bytes(lambda _: call.forward())
    entry.peak["both"] = device.peak_bytes(call.training)
    entry.call = call


def _first(run: Callable[[], Any], device: Device) -> tuple[Any, float]:
    device.synchronize()
    start = time.perf_counter()
    returned = run()
    device.synchronize()
    return returned, time.perf_counter() - start


@contextlib.contextmanager
def _launches(spec: OpSpec) -> Iterator[set[str]]:
    """Collects the rows that the family's launch table hands out inside the block."""
    used: set[str] = set()
    table = spec.launch
    if table is None:
        yield used
        return
    pick = table.pick

    def noting_pick(*arguments: Any, **options: Any) -> Launch:
        row = pick(*arguments, **options)
        words = [f"{name}={value}" for name, value in row.options().items()]
        used.add(" ".join([row.arch, *words]))
        return row

    table.pick = noting_pick
    try:
        yield used
    finally:
        del table.pick


def time_in_turns(entries: Sequence[Entry], device: Device, seconds: float) -> None:
    """Time those that are right for about `seconds` each, forward and then both passes."""
    timed = {entry.contender.name: entry for entry in entries if entry.call is not None}
    calls = {name: entry.call for name, entry in timed.items() if entry.call is not None}
    forward = take_turns(
        {name: lambda _, call=call: call.forward() for name, call in calls.items()},
        device.sample,
        seconds,
    )
    both = take_turns({n: call.training for n, call in calls.items()}, device.sample, seconds)
    for name, entry in timed.items():
        entry.times["forward"] = summarise([s.total for s in forward[name]])
        entry.times["both"] = summarise([s.total for s in both[name]])
        behind = [s.after_mark for s in both[name] if s.after_mark is not None]
        if behind:
            entry.times["backward"] = summarise(behind)
