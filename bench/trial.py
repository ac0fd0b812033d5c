# SPDX-License-Identifier: Apache-2.0
"""One launch row on the device: compared with the reference, then timed beside another row."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from seqlib_kernels import testing
from seqlib_kernels._core.launch import Launch, LaunchTable
from seqlib_kernels._core.spec import OpSpec
from torch import Tensor

from . import gate
from .contender import Call, Contender
from .device import Device, ignore_mark, real
from .entry import Entry, enter, time_in_turns
from .isolated import describe
from .launch_rows import text
from .oracle import Result, solve
from .timing import Summary
from .workloads import Problem, Workload, make_problem


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One workload: the row's times by mode, and those of the row it took turns with."""

    workload: str
    times: Mapping[str, Summary]
    against: Mapping[str, Summary]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a row came to: "ok", or "wrong" or "failed" with a message.

    `errors` are relative, by problem ("small" or a workload) and result.
    """

    status: str
    message: str | None = None
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    timed: tuple[Timed, ...] = ()


class Trials:
    """The problems that one launch row serves, drawn once, with the truth about them.

    Args:
        spec: the family, whose table is made to hand out the row that is tried.
        workloads: what is timed.
        small: the sizes that differ in the problems compared first.
        contender: the op on `backend`.
        seconds: time given to a row in each mode and workload.
        timing: compute now what `measure` compares with: for long sequences it takes a while.
    """

    def __init__(
        self,
        spec: OpSpec,
        workloads: Sequence[Workload],
        small: Mapping[str, int],
        *,
        device: Device,
        contender: Contender,
        backend: str,
        seconds: float,
        timing: bool,
    ) -> None:
        if spec.launch is None:
            raise ValueError(f"{spec.name} has no launch rows")
        self._spec, self._table = spec, spec.launch
        self._device, self._backend, self._seconds = device, backend, seconds
        self._contender = contender
        where = device.torch_device
        self._problems = [make_problem(workload, spec, where) for workload in workloads]
        self._wants = [solve(problem) for problem in self._problems] if timing else []
        torch.cuda.empty_cache()  # the other processes need room too
        firsts = {p.case.name: p for p in reversed(self._problems)}.values()
        self._small = [_small(problem, small, backend, where) for problem in firsts]
        self._small_wants = [testing.oracle(problem) for problem in self._small]
        self._others = list(testing.list_checks(where, backend=backend, specs=[spec]))
        self._known: dict[str, tuple[Trial, list[Entry]]] = {}

    def __call__(self, request: str, *arguments: Any) -> Any:
        """One of the methods below, by its name."""
        return getattr(self, request)(*arguments)

    def rehearse(self, row: Launch) -> Trial:
        """Compare on the small problems and run every workload once: all of it is compiled."""
        trial = self._compare_small(row)
        try:
            if trial.status == "ok":
                for problem in self._problems:
                    call = self._with(row).prepare(problem)
                    call.forward()
                    call.training(ignore_mark)
                    self._device.synchronize()
        except Exception as error:
            trial = Trial(status="failed", message=describe(error), errors=trial.errors)
        self._hold_to_life(trial)
        return trial

    def measure(self, row: Launch, against: Launch) -> Trial:
        """Compare on every problem, then time `row` in turns with `against`, maybe the same.

        Raises:
            ValueError: `against` is not right, or these trials are not for timing.
        """
        if not self._wants:
            raise ValueError("timing must be true for rows to be timed")
        trial, entries = self._compared(row)
        if trial.status != "ok":
            return trial
        other, others = self._compared(against)
        if other.status != "ok":
            raise ValueError(f"the row to compare with is {other.status}: {other.message}")
        timed = []
        for problem, entry, beside in zip(self._problems, entries, others, strict=True):
            pair = [entry] if entry is beside else [entry, beside]
            time_in_turns(pair, self._device, self._seconds)
            workload, times = str(problem.workload), dict(entry.times)
            timed.append(Timed(workload=workload, times=times, against=dict(beside.times)))
        return dataclasses.replace(trial, timed=tuple(timed))

    def family(self, row: Launch, check: int) -> float:
        """The error in eps of `row` in one of the checks of `testing.list_checks`."""
        return dataclasses.replace(self._others[check], launch=row).error()

    def _compared(self, row: Launch) -> tuple[Trial, list[Entry]]:
        """What comparing gave, remembered, and an entry for each workload if `row` is right."""
        name = text(row)
        if name not in self._known:
            trial, entries = self._compare_small(row), []
            errors = dict(trial.errors)
            for problem, want in zip(self._problems, self._wants, strict=True):
                if trial.status == "ok":
                    entries += enter(problem, want, [self._with(row)], self._device, _unheard)
                    errors[str(problem.workload)] = entries[-1].errors
                    status, message = entries[-1].status, entries[-1].message
                    trial = Trial(status=status, message=message, errors=errors)
            self._hold_to_life(trial)
            self._known[name] = trial, entries
        return self._known[name]

    def _compare_small(self, row: Launch) -> Trial:
        worst: dict[str, float] = {}
        for problem, want in zip(self._small, self._small_wants, strict=True):
            try:
                with self._table.forced(row):
                    got = testing.solve(self._spec.op, problem, backend=self._backend)
                eps = torch.finfo(problem.dtype).eps
                found = {n: e * eps for n, e in testing.errors(got, want, problem).items()}
            except Exception as error:  # what does not compile or fit is a result like another
                return Trial(status="failed", message=f"small: {describe(error)}")
            worst = {n: max(e, worst.get(n, 0.0)) for n, e in found.items()}
            message = gate.verdict(found, real(problem.dtype))
            if message is not None:
                errors = {"small": worst}
                return Trial(status="wrong", message=f"small: {message}", errors=errors)
        return Trial(status="ok", errors={"small": worst})

    def _hold_to_life(self, trial: Trial) -> None:
        """Raise if a failure was one after which no kernel will run in this process."""
        if trial.status == "failed":
            try:
                self._device.synchronize()
            except Exception as error:
                raise RuntimeError(trial.message) from error

    def _with(self, row: Launch) -> Contender:
        """The contender while the table hands out `row`."""

        def prepare(problem: Problem) -> Call:
            return _ForcedCall(self._contender.prepare(problem), self._table, row)

        return dataclasses.replace(self._contender, name=text(row), prepare=prepare)


def _unheard(_: str) -> None:
    """Entries hold what they have to say."""


def _small(
    problem: Problem, small: Mapping[str, int], backend: str, device: torch.device
) -> testing.Problem:
    """Packed sequences with initial states, a little over two of the longest tiles in all.

    Widths are those of the workload: on them depends what is compiled.
    """
    spec, case, workload = problem.spec, problem.case, problem.workload
    dims = {name: small.get(name, size) for name, size in workload.dims.items()}
    dtype = getattr(torch, workload.dtype)
    T = 2 * spec.exact_cut.get(backend, 64) + 3
    return testing.Problem.draw(
        spec,
        case,
        1,
        T,
        dims,
        dtype=dtype.to_complex() if spec.complex_state(case.name) else dtype,
        device=device,
        lengths=(T // 3, 0, T - T // 3),
    )


class _ForcedCall:
    """A call during which the table hands out one row."""

    def __init__(self, call: Call, table: LaunchTable, row: Launch) -> None:
        self._call, self._table, self._row = call, table, row
        self.output, self.result = call.output, call.result

    def forward(self) -> Tensor:
        with self._table.forced(self._row):
            return self._call.forward()

    def training(self, mark: Callable[[], None]) -> Result:
        with self._table.forced(self._row):
            return self._call.training(mark)
