# SPDX-License-Identifier: Apache-2.0
"""The search on a family of stand-ins: rows that are right, wrong, too large and deadly."""

import dataclasses
import io
import json
import threading
import time

import pytest
import torch
from rich.console import Console
from seqlib_kernels._core.launch import Launch, LaunchTable
from seqlib_kernels.linear_scan import reference

from bench import tune as tuning
from bench.candidates import Space, Step
from bench.contender import ours
from bench.isolated import Crashed, NotStartedError, OutOfTimeError, describe
from bench.screen import show_search
from bench.timing import Sample
from bench.trial import Trials
from bench.tune import FILE, Search, tune
from bench.tune_groups import find_groups
from bench.workloads import Workload, load_spec

STORED = Launch(arch="sm_90", itemsize=4, width=1 << 30, tiles={"BT": 16, "BD": 32})
WIDE = dataclasses.replace(STORED, itemsize=8)
TABLE = LaunchTable((STORED, WIDE), default="sm_90")
SCAN = Workload(op="linear_scan", case="real", B=2, T=7, dims={"D": 3})
LONG = dataclasses.replace(SCAN, T=9)

# What BT does: 8 is wrong, 64 needs too much, 128 crashes, 4 is right here but wrong in reverse
# and the fastest of all. BD costs nothing, warps do.
COST = {16: 8.0, 32: 4.0, 4: 1.0, 8: 1.0}
SPACE = Space(
    steps=(
        Step(tuple({"BT": n} for n in (4, 8, 16, 32, 64, 128))),
        Step(({"num_warps": 2}, {"num_warps": 8})),
        Step(({"num_stages": 3},), "sweep"),
    ),
    width="D",
    small={"D": 2},
)
ABOUT = {"commit": "0123", "dirty": False, "device": "Stand-in 9000", "driver": "1", "torch": "2"}


def seconds(row: Launch) -> float:
    own = row.per_kernel.get("sweep", {})
    return COST[row.tiles["BT"]] * row.num_warps * (0.5 if own.get("num_stages") == 3 else 1.0)


def scan(a, b, *, reverse=False, backend=None, **options):
    row = TABLE.pick(b, b.shape[-1])
    if row.tiles["BT"] == 64:
        raise RuntimeError("out of resource: shared memory, 300000 required\nand more")
    if row.tiles["BT"] == 128:
        raise KeyboardInterrupt("a fault that no handler sees")
    h, state = reference.linear_scan(a, b, reverse=reverse, **options)
    wrong = row.tiles["BT"] == 8 or (row.tiles["BT"] == 4 and reverse)
    return (h * 1.5 if wrong else h), state


SPEC = dataclasses.replace(load_spec("linear_scan"), op=scan, launch=TABLE)


class RowClock:
    """A device on which a run takes what its row costs, three quarters of it backward."""

    kind = "cpu"
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        self.alive = True

    def synchronize(self) -> None:
        if not self.alive:
            raise RuntimeError("an illegal memory access was encountered")

    def peak_bytes(self, run) -> None:
        run(lambda: None)

    def sample(self, run) -> Sample:
        seen = []
        pick = TABLE.pick
        TABLE.pick = lambda *arguments: seen.append(pick(*arguments)) or seen[-1]
        try:
            run(lambda: None)
        finally:
            del TABLE.pick
        return Sample(seconds(seen[-1]))


def make(op, workloads, small, timing):
    return Trials(
        SPEC,
        workloads,
        small,
        device=RowClock(),
        contender=ours("cpu", "cpu"),
        backend="cpu",
        seconds=0.0,
        timing=timing,
    )


class Local:
    """`Isolated` without a process; `requests` and `before` are of the class.

    One answers at a time: in one process all share the launch row that is forced.
    """

    requests: list[tuple] = []  # noqa: RUF012
    turn = threading.Lock()
    before = staticmethod(lambda request: None)

    def __init__(self, make, *arguments) -> None:
        self._make = lambda: make(*arguments)
        self._function = None

    def __call__(self, *request, limit_s, deadline):
        if time.monotonic() > deadline:
            raise OutOfTimeError
        with self.turn:
            return self._answer(request)

    def _answer(self, request):
        self.before(request)
        self.requests.append(request)
        try:
            self._function = self._function or self._make()
            return self._function(*request)
        except KeyboardInterrupt:
            self._function = None
            raise Crashed("the process ended with signal SIGABRT") from None
        except Exception as error:
            self._function = None
            raise Crashed(describe(error)) from None

    def close(self) -> None:
        self._function = None


@pytest.fixture(autouse=True)
def local(monkeypatch):
    monkeypatch.setattr(tuning, "Isolated", Local)
    monkeypatch.setattr(Local, "requests", [])
    return Local


def groups_of(*workloads):
    device = torch.device("cpu")
    return find_groups(
        workloads,
        "sm_90",
        device,
        backend="cpu",
        spec_of=lambda op: SPEC,
        spaces={"linear_scan": SPACE},
    )


def search(folder, *, workloads=(SCAN,), helpers=1, limit_s=60.0, about=ABOUT, groups=None):
    shown, said = [], []
    right = tune(
        groups or groups_of(*workloads),
        folder,
        make=make,
        time_limit_s=limit_s,
        helpers=helpers,
        about=about,
        say=said.append,
        show=shown.append,
    )
    return right, shown, said


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def by_change(folder, stage="search"):
    return {line["change"]: line for line in lines(folder) if line["stage"] == stage}


BEST = dataclasses.replace(
    STORED,
    tiles={"BT": 32, "BD": 32},
    num_warps=2,
    per_kernel={"sweep": {"num_stages": 3}},
)


@pytest.mark.parametrize("helpers", [0, 1, 2])
def test_the_fastest_right_row_is_found(tmp_path, helpers):
    """BT=4 would be faster, but is wrong in the family's other cases; so is all built on it."""
    right, (found,), _ = search(tmp_path, helpers=helpers)
    assert right
    first = by_change(tmp_path)
    assert first["BT=4"]["speedup"] == pytest.approx(8)
    # from BT=4 the search goes on to fewer warps, as it can't know; none of it serves
    families = by_change(tmp_path, "family")
    assert families["BT=4, num_warps=2, sweep: num_stages=3"]["status"] == "wrong"
    assert "reverse" in families["BT=4"]["message"]
    assert found.winner.row.tiles["BT"] == 32
    assert found.note == "2.000x the stored row"


def test_one_coordinate_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setitem(COST, 4, 100.0)
    _, (found,), _ = search(tmp_path)
    assert found.winner.row == BEST
    assert found.winner.speedup == pytest.approx(2 * 2 * 2)
    against = by_change(tmp_path)["BT=32, num_warps=8"]["against"]
    assert eval(against, {"Launch": Launch}).tiles["BT"] == 32
    assert len(found.tried) == 1 + 5 + 2 + 1, "the sum of the steps, not their product"


def test_what_is_wrong_gets_no_speed(tmp_path):
    search(tmp_path)
    wrong = by_change(tmp_path)["BT=8"]
    assert wrong["status"] == "wrong"
    assert wrong["message"].startswith("small: output is off by ")
    assert wrong["errors"]["small"]["output"] > 0.4
    assert wrong["speedup"] is None
    assert wrong["timed"] == []


@pytest.mark.parametrize("helpers", [0, 1])
def test_what_fails_or_crashes_is_recorded_and_stops_nothing(tmp_path, helpers):
    search(tmp_path, helpers=helpers)
    found = by_change(tmp_path)
    assert found["BT=64"]["status"] == "failed"
    assert "out of resource: shared memory" in found["BT=64"]["message"]
    assert found["BT=128"]["status"] == "crashed"
    assert found["BT=128"]["message"] == "the process ended with signal SIGABRT"
    assert found["BT=32"]["status"] == "ok"


def test_a_line_says_all_it_must_be_traceable_to(tmp_path):
    search(tmp_path, workloads=(SCAN, LONG))
    line = by_change(tmp_path)["BT=32"]
    assert {name: line[name] for name in ABOUT} == ABOUT
    assert line["workloads"] == [str(SCAN), str(LONG)]
    assert Launch(**line["row"]) == eval(line["text"], {"Launch": Launch})
    assert set(line["errors"]) == {"small", str(SCAN), str(LONG)}
    assert set(line["errors"][str(SCAN)]) == {"inference", "output", "da", "db"}
    assert [timed["workload"] for timed in line["timed"]] == line["workloads"]
    assert line["timed"][0]["times"]["forward"]["median"] == 16.0
    assert line["timed"][0]["against"]["both"]["median"] == 32.0


def test_workloads_of_one_row_are_one_group_and_others_are_not():
    double = dataclasses.replace(SCAN, dtype="float64")
    groups = groups_of(SCAN, double, LONG)
    assert [group.workloads for group in groups] == [(SCAN, LONG), (double,)]
    assert [group.stored for group in groups] == [STORED, WIDE]


def test_a_device_without_rows_gets_its_own_arch(tmp_path):
    device = torch.device("cpu")
    (group,) = find_groups(
        (SCAN,), "sm_100", device, backend="cpu", spec_of=lambda op: SPEC,
        spaces={"linear_scan": SPACE},
    )  # fmt: skip
    assert (group.stored, group.row.arch) == (STORED, "sm_100")


def test_the_text_shown_is_the_row(tmp_path, capsys):
    _, (found,), _ = search(tmp_path)
    capsys.readouterr()
    show_search(found, Console(file=io.StringIO()))
    stored, winner = eval(f"({capsys.readouterr().out})", {"Launch": Launch})
    assert stored == STORED
    assert winner == found.winner.row


def test_a_table_shows_every_candidate_with_its_reason(tmp_path):
    _, (found,), _ = search(tmp_path)
    text = io.StringIO()
    show_search(found, Console(file=text, width=200))
    for tried in found.tried:
        assert tried.line["change"] in text.getvalue()
    assert "failed: small: RuntimeError: out of resource: shared memory" in text.getvalue()
    assert found.note in text.getvalue()


class Stop(BaseException):
    """What Ctrl-C is."""


def stop_after(count):
    def before(request):
        if len(Local.requests) >= count:
            raise Stop

    return staticmethod(before)


def test_an_interrupted_search_loses_nothing_and_goes_on(tmp_path, monkeypatch):
    shown = []
    _, (whole,), _ = search(tmp_path / "whole")
    monkeypatch.setattr(Local, "requests", [])
    with monkeypatch.context() as patch:
        patch.setattr(Local, "before", stop_after(8))
        with pytest.raises(Stop):
            tune(
                groups_of(SCAN), tmp_path, make=make, time_limit_s=60, helpers=0,
                about=ABOUT, say=print, show=shown.append,
            )  # fmt: skip
    first = [line["text"] for line in lines(tmp_path)]
    assert len(first) == 8
    assert [tried.line["text"] for tried in shown[0].tried] == first
    assert shown[0].winner.row.tiles["BT"] == 4, "the best so far"
    assert shown[0].note == "the search did not get to its end"
    _, (found,), _ = search(tmp_path, helpers=0)
    texts = [line["text"] for line in lines(tmp_path) if line["stage"] == "search"]
    assert len(texts) == len(set(texts)), "nothing is tried twice"
    assert found.winner.row == whole.winner.row


@pytest.mark.parametrize("change", [{"dirty": True}, {"commit": "4567"}, {"device": "another"}])
def test_lines_of_other_code_or_devices_do_not_count(tmp_path, change):
    search(tmp_path)
    before = len(lines(tmp_path))
    search(tmp_path, about=ABOUT | change)
    assert len(lines(tmp_path)) == 2 * before


def test_a_line_cut_short_is_passed_over(tmp_path):
    search(tmp_path)
    path = tmp_path / FILE
    path.write_text(path.read_text() + '{"op": "linear_s\n')
    right, _, _ = search(tmp_path)
    assert right


def test_time_over_before_the_first_row(tmp_path):
    right, (found,), _ = search(tmp_path, limit_s=0.0)
    assert not right
    assert found.winner is None
    assert found.note == "the search did not get to its end"


def late_after(monkeypatch, count):
    """The time is over for all but the first `count` requests."""

    def before(request):
        if len(Local.requests) >= count:
            raise OutOfTimeError

    monkeypatch.setattr(Local, "before", staticmethod(before))


def test_time_over_in_the_search_leaves_the_best_so_far_and_says_what_is_unknown(
    tmp_path, monkeypatch
):
    late_after(monkeypatch, 3)  # the stored row, BT=4 and BT=8
    right, (found,), said = search(tmp_path, helpers=0)
    assert right
    assert "out of time for further candidates" in said
    assert [line["change"] for line in lines(tmp_path)] == ["the same", "BT=4", "BT=8"]
    assert found.winner.row.tiles["BT"] == 4
    assert found.note == "out of time: not compared on all that it would serve"


def test_the_limit_is_shared_by_the_groups(tmp_path, monkeypatch):
    deadlines = []
    monkeypatch.setattr(Search, "run", lambda self, deadline: deadlines.append(deadline))
    double = dataclasses.replace(SCAN, dtype="float64")
    start = time.monotonic()
    search(tmp_path, workloads=(SCAN, double), limit_s=100.0)
    assert [round(deadline - start, -1) for deadline in deadlines] == [50, 100]


def test_a_search_that_cannot_start_is_told(tmp_path, monkeypatch):
    def before(request):
        raise NotStartedError("OutOfMemoryError: 80 GiB")

    monkeypatch.setattr(Local, "before", staticmethod(before))
    right, (found,), _ = search(tmp_path)
    assert not right
    assert found.note == "not started: OutOfMemoryError: 80 GiB"


def test_helpers_that_cannot_start_are_done_without(tmp_path, monkeypatch):
    def before(request):
        if request[0] == "rehearse":
            raise NotStartedError("OutOfMemoryError: 80 GiB")

    monkeypatch.setattr(Local, "before", staticmethod(before))
    _, (found,), said = search(tmp_path)
    assert found.note == "2.000x the stored row"
    assert any("compiled without help" in text for text in said)


def test_where_the_stored_row_is_wrong_any_right_row_wins(tmp_path):
    wrong = dataclasses.replace(STORED, tiles={"BT": 8, "BD": 32})
    (group,) = groups_of(SCAN)
    group = dataclasses.replace(group, row=wrong)
    right, (found,), _ = search(tmp_path, groups=[group])
    assert right
    assert found.winner.row.tiles["BT"] == 32
    assert found.note == "right on all that it would serve; the stored row is not"


def test_no_better_row_is_an_answer(tmp_path, monkeypatch):
    (group,) = groups_of(SCAN)
    space = dataclasses.replace(SPACE, steps=(Step(({"num_warps": 8}, {"BT": 64})),))
    right, (found,), _ = search(tmp_path, groups=[dataclasses.replace(group, space=space)])
    assert right
    assert found.winner is None
    assert found.note == "no row that was tried is faster than the stored one"


@pytest.mark.parametrize(("off", "passes"), [(1.0, True), (1.05, True), (1.2, False)])
def test_where_the_stored_row_is_a_little_off_too_no_better_is_asked(
    tmp_path, monkeypatch, off, passes
):
    """A bound that the stored row misses by a quarter says little of a row that misses it too."""
    (group,) = groups_of(SCAN)

    def family(self, row, check):
        return 1.25 * group.checks[check][1] * (1.0 if row == STORED else off)

    monkeypatch.setattr(Trials, "family", family)
    _, (found,), _ = search(tmp_path)
    (first, *_) = by_change(tmp_path, "family").values()
    assert (first["status"] == "ok") == passes
    assert (found.winner is not None) == passes


def test_a_failure_after_which_nothing_runs_ends_the_process():
    device = RowClock()
    trials = Trials(
        SPEC, (SCAN,), {}, device=device, contender=ours("cpu", "cpu"), backend="cpu", seconds=0,
        timing=False,
    )  # fmt: skip
    large = dataclasses.replace(STORED, tiles={"BT": 64, "BD": 32})
    assert trials.rehearse(large).status == "failed"
    device.alive = False
    with pytest.raises(RuntimeError, match="out of resource"):
        trials.rehearse(large)


def test_helpers_do_not_time():
    trials = make("linear_scan", (SCAN,), {}, False)
    assert trials.rehearse(STORED).status == "ok"
    with pytest.raises(ValueError, match="timing must be true"):
        trials.measure(STORED, STORED)


def test_a_family_without_rows_is_refused():
    with pytest.raises(ValueError, match="linear_scan has no launch rows"):
        find_groups(
            (SCAN,), "sm_90", torch.device("cpu"),
            spec_of=lambda op: dataclasses.replace(SPEC, launch=None),
        )  # fmt: skip
