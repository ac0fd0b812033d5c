# SPDX-License-Identifier: Apache-2.0
"""A suite from inputs to rows, with contenders that are right, wrong, broken and absent."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from bench import runner
from bench.contender import Contender, TorchCall, ours
from bench.runner import run_suite
from bench.workloads import load_spec


def scan(a, b):
    return load_spec("linear_scan").reference(a, b)[0]


def contender(name: str, function: Callable, **more) -> Contender:
    return Contender(name=name, prepare=lambda p: TorchCall(function, p), device=None, **more)


class ForwardOnlyMark:
    """A call whose backward pass can't be told apart: it never sets the mark."""

    def __init__(self, problem) -> None:
        self._call = TorchCall(scan, problem)
        self.forward, self.output, self.result = (
            self._call.forward,
            self._call.output,
            self._call.result,
        )

    def training(self, mark):
        return self._call.training(lambda: None)


def raising(a, b):
    raise RuntimeError("out of luck\nand more")


def run(suite, device, *contenders):
    rows, said = [], []
    right = run_suite(
        "test", suite, device, {"linear_scan": contenders}, emit=rows.extend, say=said.append
    )
    return right, rows, said


def test_right_contenders_get_all_three_modes(suite, device):
    right, rows, said = run(suite, device, ours("cpu", "cpu"), contender("loop", scan))
    assert right
    assert said == []
    assert [(r.contender, r.mode) for r in rows] == [
        (name, mode) for name in ("seqlib cpu", "loop") for mode in ("forward", "backward", "both")
    ]
    for row in rows:
        assert row.status == "ok"
        assert row.best_s <= row.p20_s <= row.median_s <= row.p80_s
        assert row.headline_s == row.best_s
        assert row.roofline == row.floor_s / row.headline_s
        assert set(row.errors) == {"inference", "output", "da", "db"}
        assert max(row.errors.values()) < 1e-6
        assert row.load == 0.5
    forward, backward, both = (rows[i].moved_bytes for i in range(3))
    assert both == forward + backward
    assert forward == 3 * 4 * 2 * 7 * 3  # a, b, h of float32
    assert rows[0].floor_s == forward / 1e9
    assert rows[0].first_call_s is not None
    assert rows[1].first_call_s is None


def test_the_backward_time_is_what_follows_the_mark(suite, device):
    _, rows, _ = run(suite, device, contender("loop", scan))
    _, backward, both = rows
    assert backward.median_s == both.median_s / 2


def test_without_a_mark_there_is_no_backward_row(suite, device):
    whole = Contender(name="whole", prepare=ForwardOnlyMark)
    _, rows, _ = run(suite, device, whole)
    assert [row.mode for row in rows] == ["forward", "both"]


def wrong_output(a, b):
    return scan(a, b) * (1 + 1e-3)


def wrong_gradient(a, b):
    h = scan(a, b)
    return h + (1e-2 * a - (1e-2 * a).detach())


def wrong_in_inference(a, b):
    h = scan(a, b)
    return h if torch.is_grad_enabled() else h + 1


@pytest.mark.parametrize("function", [wrong_output, wrong_gradient, wrong_in_inference])
def test_wrong_contenders_get_no_speed(suite, device, function):
    right, rows, said = run(suite, device, contender("peer", function), contender("loop", scan))
    assert right, "a wrong peer is not our failure"
    wrong = [row for row in rows if row.contender == "peer"]
    assert len(wrong) == 3
    for row in wrong:
        assert row.status == "wrong"
        assert "is off by" in row.message
        assert row.headline_s is row.median_s is row.roofline is row.peak_bytes is None
        assert row.samples == 0
    assert any("peer wrong" in text for text in said)


def test_ours_being_wrong_is_a_failure(suite, device):
    right, _, _ = run(suite, device, contender("seqlib cpu", wrong_output, ours=True))
    assert not right


def test_a_broken_contender_stops_nobody_else(suite, device):
    broken = contender("broken", raising)
    right, rows, _ = run(suite, device, broken, contender("loop", scan))
    assert right
    assert {r.message for r in rows if r.contender == "broken"} == {"RuntimeError: out of luck"}
    assert all(r.headline_s is None for r in rows if r.contender == "broken")
    assert all(r.status == "ok" for r in rows if r.contender == "loop")


def test_absent_and_unfit_contenders_are_left_out_aloud(suite, device):
    absent = contender("absent", scan, module="no_such_module", distribution="no-such-thing")
    unfit = contender("unfit", scan, refuses=lambda problem: "only on Sundays")
    right, rows, said = run(suite, device, ours("triton", "cuda"), absent, unfit)
    assert right
    assert rows == [], "what runs on another device is not even mentioned"
    assert said == [
        "absent left out: no-such-thing is not installed",
        "unfit left out: only on Sundays",
    ]


def test_thread_counts(suite, device, monkeypatch):
    monkeypatch.setattr(runner, "_cores", lambda: 2)
    suite = dataclasses.replace(suite, threads=(1, 2, 64))
    scans = contender("scan", scan)
    compiled = contender("compiled", scan, compiled=True)
    loop = contender("loop", scan, sequential=True)
    _, rows, said = run(suite, device, scans, compiled, loop)
    assert [(r.contender, r.threads) for r in rows if r.mode == "both"] == [
        ("scan", 1),
        ("compiled", 1),
        ("loop", 1),
        ("scan", 2),
    ]
    assert device.threads[-2:] == [1, 2]
    assert said == ["not timed with 64 threads: there is room for 2"]


def test_a_suite_can_do_without_compiled_peers(suite, device):
    compiled, loop = contender("compiled", scan, compiled=True), contender("loop", scan)
    _, rows, _ = run(dataclasses.replace(suite, compiled=False), device, compiled, loop)
    assert {row.contender for row in rows} == {"loop"}


def test_launch_rows_are_recorded(suite, device):
    table = load_spec("linear_scan").launch

    def launching(a, b):
        table.pick(b, b.shape[-1])
        return scan(a, b)

    _, rows, _ = run(suite, device, contender("seqlib triton", launching, ours=True))
    expected = table.pick(torch.empty(1), 3)
    assert len(rows[0].launch) == 1
    assert rows[0].launch[0].startswith(expected.arch)
    assert f"num_warps={expected.num_warps}" in rows[0].launch[0]
    assert "pick" not in vars(table), "the table is left as it was"
