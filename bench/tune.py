# SPDX-License-Identifier: Apache-2.0
"""The search for launch rows: one coordinate after the other, every row checked before it is timed.

Nothing here edits a `launch.py`: a person pastes the row that was found, and the tests of launch
rows hold it from then on.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from seqlib_kernels._core.launch import Launch

from .contender import ours
from .gpu import Gpu
from .isolated import Crashed, Isolated, NotStartedError, OutOfTimeError, spread
from .launch_rows import difference, text
from .records import append_lines
from .trial import Timed, Trial, Trials
from .tune_groups import Group
from .workloads import Workload, load_spec

FILE = "tune.jsonl"
REQUEST_S = 120  # for one row in one process, compilation included
GAIN = 1.01  # a row replaces another if it is faster by more than this: less is noise
SECONDS = 0.15  # given to a row in each mode and workload
SEARCHED = 0.75  # of a group's time; the rest is for the checks of the winner
SLACK = 1.1  # how far errors of rows may lie apart where the stored row's is over its bound
SAME = ("op", "workloads", "commit", "device", "driver", "torch", "triton")  # for lines to count


@dataclass(frozen=True)
class Tried:
    """A candidate and what came of it, as its line in the file says it.

    The line's "status" is "ok", "wrong", "failed" or "crashed"; "speedup" says how many times as
    fast as the stored row the candidate is, by way of the rows between them.
    """

    row: Launch
    line: Mapping[str, Any]

    @property
    def right(self) -> bool:
        return self.line["status"] == "ok"

    @property
    def speedup(self) -> float:
        return self.line["speedup"] or 0.0


class Search:
    """The search of one group.

    Args:
        group: what is searched.
        path: gets a line for every candidate as soon as it is known. Lines that are there already
            are not tried again if they are of the same unchanged commit, device and versions.
        make: makes `Trials` from op, workloads, small sizes and whether they are for timing, in
            a process of its own.
        helpers: how many processes compile side by side; nothing else runs while one times.
        about: what every line is traceable to.
        say: hears a remark for every candidate.
    """

    def __init__(
        self,
        group: Group,
        path: Path,
        *,
        make: Callable[..., Trials],
        helpers: int,
        about: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.group = group
        self.tried: list[Tried] = []
        self.winner: Tried | None = None
        self.note = "the search did not get to its end"
        self._path, self._say = path, say
        self._about = {"op": group.op, "workloads": [str(w) for w in group.workloads], **about}
        arguments = (group.op, group.workloads, dict(group.space.small))
        self._timer = Isolated(make, *arguments, True)
        self._helpers = [Isolated(make, *arguments, False) for _ in range(helpers)]
        self._past = _read(path, self._about)

    def run(self, deadline: float) -> None:
        """Search until `deadline` of the monotonic clock; what was found is in the attributes.

        Raises:
            NotStartedError: no process could draw the inputs and compute the truth.
        """
        now = time.monotonic()
        try:
            try:
                self._search(now + SEARCHED * (deadline - now))
            except OutOfTimeError:
                self._say("out of time for further candidates")
            self._choose(deadline)
        finally:
            for process in (self._timer, *self._helpers):
                process.close()

    def _search(self, deadline: float) -> None:
        row = self.group.row
        self._say(f"{self.group.op}: {text(row)}, as stored")
        stored = self._measure(row, None, deadline)
        best = stored if stored.right else None
        for step in self.group.space.steps:
            known = [tried.row for tried in self.tried]
            fresh = [r for r in step.candidates(best.row if best else row) if r not in known]
            base = best
            for candidate in self._rehearse(fresh, base, deadline):
                tried = self._measure(candidate, base, deadline)
                if tried.right and (best is None or tried.speedup > GAIN * best.speedup):
                    best = self.winner = tried
                    base = base or best

    def _choose(self, deadline: float) -> None:
        """Take the fastest row that also serves the family's other cases and dtypes."""
        rows = [tried for tried in self.tried if tried.right]
        better = [tried for tried in rows if tried.row != self.group.row]
        self.winner = None
        if not rows:
            self.note = "no row that was tried is right" if self.tried else self.note
            return
        stored = next((tried for tried in rows if tried.row == self.group.row), None)
        if stored is not None:
            better = [tried for tried in better if tried.speedup > GAIN]
        for tried in sorted(better, key=lambda tried: -tried.speedup):
            self.winner = tried
            self.note = "out of time: not compared on all that it would serve"
            try:
                if not self._serves(tried.row, deadline):
                    self.winner = None
                    continue
                self.note = "right on all that it would serve; the stored row is not"
                if stored is None:
                    return
                self.note = "out of time: right on all that it would serve, not timed again"
                last = self._measure(tried.row, stored, deadline, stage="final")
            except OutOfTimeError:
                return
            if last.right and last.speedup > GAIN:
                self.winner, self.note = last, f"{last.speedup:.3f}x the stored row"
                return
            self.winner = None
        self.note = "no row that was tried is faster than the stored one"

    def _rehearse(
        self, rows: Sequence[Launch], base: Tried | None, deadline: float
    ) -> list[Launch]:
        """Those of `rows` that compile and are right on small problems; nothing is timed yet."""
        fresh = [row for row in rows if self._known(row, base) is None]
        bad = []
        if self._helpers:
            requests = [("rehearse", row) for row in fresh]
            for (_, row), answer in spread(
                self._helpers, requests, limit_s=REQUEST_S, deadline=deadline
            ):
                if isinstance(answer, OutOfTimeError):
                    raise answer
                if isinstance(answer, NotStartedError):
                    self._say(f"compiled without help: {answer}")
                    continue
                trial = _crashed(answer) if isinstance(answer, Crashed) else answer
                if trial.status != "ok":
                    bad.append(row)
                    self._note(row, trial, base)
        return [row for row in rows if row not in bad]

    def _measure(
        self, row: Launch, base: Tried | None, deadline: float, stage: str = "search"
    ) -> Tried:
        known = self._known(row, base) if stage == "search" else None
        if known is not None:
            tried = Tried(row, known)
            self.tried.append(tried)
            return tried
        request = ("measure", row, row if base is None else base.row)
        try:
            trial = self._timer(*request, limit_s=REQUEST_S, deadline=deadline)
        except Crashed as error:
            trial = _crashed(error)
        return self._note(row, trial, base, stage)

    def _serves(self, row: Launch, deadline: float) -> bool:
        """Whether `row` is right in every case and dtype that it would be given.

        Where the stored row is a little over a bound too, no better is asked of another.
        """
        errors, trial = self._family(row, deadline)
        over = {c: e for c, e in errors.items() if not e <= self.group.checks[c][1]}
        if over and trial.status == "ok":
            stored = self._family(self.group.row, deadline, tuple(over))[0]
            excused = {c: min(SLACK * e, 2 * self.group.checks[c][1]) for c, e in stored.items()}
            over = {c: e for c, e in over.items() if not e <= excused.get(c, 0.0)}
        if over and trial.status == "ok":
            check, worst = max(over.items(), key=lambda pair: pair[1])
            name, bound = self.group.checks[check]
            message = f"{name} is off by {worst:.1f} eps, allowed {bound:g}"
            trial = Trial(status="wrong", message=message)
        named = {"eps": {self.group.checks[c][0]: e for c, e in errors.items()}}
        noted = Trial(status=trial.status, message=trial.message, errors=named)
        return self._note(row, noted, None, "family").right

    def _family(
        self, row: Launch, deadline: float, checks: Sequence[int] | None = None
    ) -> tuple[dict[int, float], Trial]:
        """The errors in eps of `row` in `checks`, all by default, until one crashes."""
        errors: dict[int, float] = {}
        requests = [("family", row, c) for c in (self.group.checks if checks is None else checks)]
        answers = spread(
            self._helpers or [self._timer], requests, limit_s=REQUEST_S, deadline=deadline
        )
        for (*_, check), answer in answers:
            if isinstance(answer, (OutOfTimeError, NotStartedError)):
                raise OutOfTimeError from answer
            if isinstance(answer, Crashed):
                name = self.group.checks[check][0]
                return errors, Trial(status="crashed", message=f"{name}: {answer}")
            errors[check] = answer
        return errors, Trial(status="ok")

    def _note(self, row: Launch, trial: Trial, base: Tried | None, stage: str = "search") -> Tried:
        """Keep what came of `row`: in the file at once."""
        speedup = None
        if trial.timed:
            speedup = _ratio(trial.timed) * (1.0 if base is None else base.speedup)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **self._about,
            "stage": stage,
            "row": asdict(row),
            "text": text(row),
            "change": difference(row, self.group.row),
            "against": None if base is None else text(base.row),
            "status": trial.status,
            "message": trial.message,
            "errors": trial.errors,
            "timed": [asdict(timed) for timed in trial.timed],
            "speedup": speedup,
        }
        append_lines(self._path, [line])
        tried = Tried(row, line)
        if stage == "search":
            self.tried.append(tried)
        came = f"{speedup:.3f}x" if speedup else trial.message or trial.status
        self._say(f"  {stage}, {line['change']}: {came}")
        return tried

    def _known(self, row: Launch, base: Tried | None) -> Mapping[str, Any] | None:
        """The line of an earlier search that says what came of `row`."""
        against = None if base is None else text(base.row)
        for line in self._past:
            same = line["status"] != "ok" or line["against"] == against
            if line["text"] == text(row) and same:
                return line
        return None


def _crashed(error: Crashed) -> Trial:
    return Trial(status="crashed", message=str(error))


def _ratio(timed: Sequence[Timed]) -> float:
    """How many times as fast as the other row: geometric mean over workloads, both modes alike."""
    modes = ("forward", "both")
    logs = [math.log(t.against[m].median / t.times[m].median) for t in timed for m in modes]
    return math.exp(statistics.fmean(logs))


def _read(path: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a search of the same work by the same code on the same machine."""
    if about.get("dirty") is not False or not path.is_file():
        return []
    lines = []
    for text_line in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text_line)
        except json.JSONDecodeError:  # the last one, where the writer was killed
            continue
        same = line["dirty"] is False and all(line.get(n) == about.get(n) for n in SAME)
        if same and line["stage"] == "search":
            lines.append(line)
    return lines


def tune(
    groups: Sequence[Group],
    folder: Path,
    *,
    make: Callable[..., Trials],
    time_limit_s: float,
    helpers: int,
    about: Mapping[str, Any],
    say: Callable[[str], None],
    show: Callable[[Search], None],
) -> bool:
    """Search every group, each with an equal part of the time that is left.

    `show` gets each search when it ends, also one that was interrupted. Returns whether every
    search started and found a right row.
    """
    end = time.monotonic() + time_limit_s
    right = True
    for i, group in enumerate(groups):
        now = time.monotonic()
        search = Search(group, folder / FILE, make=make, helpers=helpers, about=about, say=say)
        try:
            search.run(now + (end - now) / (len(groups) - i))
        except NotStartedError as error:
            search.note = f"not started: {error}"
            right = False
        finally:
            show(search)
        right = right and any(tried.right for tried in search.tried)
    return right


def gpu_trials(
    op: str, workloads: Sequence[Workload], small: Mapping[str, int], timing: bool
) -> Trials:
    """What a process of a search on a GPU holds."""
    torch.set_num_threads(1)  # there are many processes

    return Trials(
        load_spec(op),
        workloads,
        small,
        device=Gpu(),
        contender=ours("triton", "cuda"),
        backend="triton",
        seconds=SECONDS,
        timing=timing,
    )
