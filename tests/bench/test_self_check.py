# SPDX-License-Identifier: Apache-2.0
"""The self-check side by side: every check has its line, also those of a process that dies."""

import json

import pytest
from seqlib_kernels import testing
from seqlib_kernels.linear_scan.spec import SPEC

from bench import self_check
from bench.isolated import Crashed, NotStartedError, OutOfTimeError


@pytest.fixture
def alone(monkeypatch):
    """The checks of one family, in this process."""
    monkeypatch.setattr(testing, "SPECS", (SPEC,))
    answers = {}

    class Local:
        def __init__(self, make, device):
            self._function = make(device)

        def __call__(self, i, *, limit_s, deadline):
            if i in answers:
                raise answers[i]
            return self._function(i)

        def close(self):
            pass

    monkeypatch.setattr(self_check, "Isolated", Local)
    return answers


def run(folder, make=self_check.checks):
    right = self_check.self_check(folder, device="cpu", processes=2, make=make)
    lines = (folder / self_check.FILE).read_text().splitlines()
    return right, [json.loads(line) for line in lines]


def test_every_check_has_its_line(alone, tmp_path, capsys):
    right, lines = run(tmp_path)
    assert right
    assert len(lines) == len(list(testing.list_checks("cpu"))) == 12
    assert all(line["ok"] and line["error"] <= line["bound"] for line in lines)
    assert {line["case"] for line in lines} == {case.name for case in SPEC.cases}
    out = capsys.readouterr().out
    assert "ok    linear_scan real cpu - float64: " in out
    assert "12 checks: 0 failed, 0 not done" in out


def test_what_is_off_or_crashes_fails_and_stops_nothing(alone, tmp_path, capsys):
    alone[3] = Crashed("the process ended with signal SIGABRT")
    right, lines = run(tmp_path, lambda device: lambda i: 1e9 if i == 5 else 0.5)
    assert not right
    assert len(lines) == 12
    bad = [line for line in lines if not line["ok"]]
    assert sorted(line["message"] or "" for line in bad) == [
        "",
        "the process ended with signal SIGABRT",
    ]
    assert "12 checks: 2 failed, 0 not done" in capsys.readouterr().out


@pytest.mark.parametrize("error", [OutOfTimeError(), NotStartedError("no device")])
def test_what_was_not_done_is_no_success(alone, tmp_path, capsys, error):
    alone[11] = error
    right, lines = run(tmp_path)
    assert not right
    assert len(lines) == 11
    assert "12 checks: 0 failed, 1 not done" in capsys.readouterr().out


def test_processes_of_their_own(tmp_path, monkeypatch):
    """What runs on a GPU, but for the GPU."""
    (tmp_path / "stand_in_checks.py").write_text(
        "import os\ndef make(device):\n    return lambda i: os.abort() if i == 2 else 0.25\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(testing, "SPECS", (SPEC,))
    import stand_in_checks  # pyright: ignore[reportMissingImports]

    right, lines = run(tmp_path, stand_in_checks.make)
    assert not right
    assert [line["message"] for line in lines if not line["ok"]] == [
        "the process ended with signal SIGABRT"
    ]
    assert len(lines) == 12
