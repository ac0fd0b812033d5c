# SPDX-License-Identifier: Apache-2.0
"""gpu-check: every part runs, all of it lands in one folder, a failure is not lost."""

import json
import sys
import time

from bench import gpu_check
from bench.gpu_check import Part

FACTS = {"device": "Stand-in 9000", "driver": "1.2"}


def python(name: str, code: str, limit_s: float = 20) -> Part:
    return Part(name, (sys.executable, "-c", code), limit_s)


def test_it_goes_on_behind_a_failure_and_says_so(tmp_path, capfd):
    parts = (
        python("first", "print('one'); raise SystemExit(3)"),
        python("second", "print('two')"),
    )
    assert gpu_check.gpu_check(tmp_path, FACTS, parts) == 1
    summary = json.loads((tmp_path / gpu_check.SUMMARY).read_text())
    assert summary["parts"]["first"]["outcome"] == "failed"
    assert summary["parts"]["first"]["status"] == 3
    assert summary["parts"]["second"]["outcome"] == "ok"
    assert summary["device"] == "Stand-in 9000"
    assert {"commit", "dirty", "torch", "triton", "python"} <= set(summary)
    log = (tmp_path / gpu_check.LOG).read_text()
    assert "one\n" in log
    assert "two\n" in log
    assert capfd.readouterr().out == log


def test_all_well_is_zero(tmp_path):
    assert gpu_check.gpu_check(tmp_path, FACTS, (python("only", "pass"),)) == 0


def test_a_part_that_hangs_is_stopped_with_its_children(tmp_path):
    sleep = f"[{sys.executable!r}, '-c', 'import time; time.sleep(60)']"
    child = f"import subprocess; subprocess.run({sleep})"
    parts = (python("hangs", child, 0.7), python("next", "print('still here')"))
    start = time.monotonic()
    assert gpu_check.gpu_check(tmp_path, FACTS, parts) == 1
    assert time.monotonic() - start < 20
    summary = json.loads((tmp_path / gpu_check.SUMMARY).read_text())
    assert summary["parts"]["hangs"]["outcome"] == "out of time"
    assert summary["parts"]["next"]["outcome"] == "ok"


def test_an_earlier_check_is_replaced(tmp_path):
    (tmp_path / "results.jsonl").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    gpu_check.gpu_check(tmp_path, FACTS, (python("only", "pass"),))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.txt", "notes.txt", "summary.json"]


def test_the_parts_end_within_ten_minutes_and_write_into_the_folder(tmp_path):
    parts = gpu_check.parts(tmp_path)
    assert [part.name for part in parts] == ["GPU tests", "check_kernels", "benchmark"]
    assert sum(part.limit_s for part in parts) < 600
    tests, self_check, benchmark = (" ".join(part.command) for part in parts)
    assert f"-m gpu --junitxml={tmp_path / 'junit.xml'}" in tests
    assert "check_kernels('cuda')" in self_check
    assert benchmark.endswith(f"bench run --suite gpu-quick --out {tmp_path}")
