# SPDX-License-Identifier: Apache-2.0
"""gpu-check: every part runs, all of it lands in one folder, a failure is not lost."""

import dataclasses
import json
import re
import sys
import time

from bench import gpu_check, records, self_check, tune
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


def test_a_part_whose_time_is_over_may_write_what_it_knows(tmp_path):
    code = (
        "import time\n"
        "print('begun', flush=True)\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: print('known so far', flush=True); time.sleep(60)"
    )
    assert gpu_check.gpu_check(tmp_path, FACTS, (python("slow", code, 3),)) == 1
    assert "known so far\n" in (tmp_path / gpu_check.LOG).read_text()


def test_time_left_over_is_for_the_parts_behind(tmp_path):
    tell = "import sys; print('seconds:', sys.argv[1])"
    early = python("early", "pass", 1000)
    late = Part("late", (sys.executable, "-c", tell, "{seconds}"), 50)
    assert gpu_check.gpu_check(tmp_path, FACTS, (early, late)) == 0
    (line,) = re.findall(r"^seconds: (\d+)$", (tmp_path / gpu_check.LOG).read_text(), re.M)
    assert 1000 < int(line) <= 1050 - gpu_check.START_S - gpu_check.GRACE_S


def test_a_benchmark_cut_short_has_a_report(tmp_path, rows):
    records.append(tmp_path / "rows", rows)
    there, here = (str(tmp_path / folder / records.FILE) for folder in ("rows", ""))
    code = f"import os; os.rename({there!r}, {here!r}); raise SystemExit(1)"
    assert gpu_check.gpu_check(tmp_path, FACTS, (python("benchmark", code),)) == 1
    assert "slow peer" in (tmp_path / "report.md").read_text()


def test_a_part_gets_its_variables(tmp_path):
    part = dataclasses.replace(
        python("part", "import os; print(os.environ['WORD'])"), environment={"WORD": "as told"}
    )
    gpu_check.gpu_check(tmp_path, FACTS, (part,))
    assert "as told\n" in (tmp_path / gpu_check.LOG).read_text()


def test_the_parts_end_within_ten_minutes_and_write_into_the_folder(tmp_path):
    parts = gpu_check.parts(tmp_path, tune=True)
    names = ["self-check", "GPU tests", "benchmark", "tune"]
    assert [part.name for part in parts] == names
    assert [part.name for part in gpu_check.parts(tmp_path)] == names[:3]
    assert sum(part.limit_s for part in parts) < 600
    self_check, tests, benchmark, tune = (" ".join(part.command) for part in parts)
    assert self_check.endswith(f"{tmp_path} {{seconds}}")
    assert f"-m gpu --junitxml={tmp_path / 'junit.xml'}" in tests
    assert benchmark.endswith(f"bench run --suite gpu-quick --out {tmp_path}")
    assert tune.endswith(f"bench tune --out {tmp_path} --time-limit {{seconds}}")


def test_files_have_the_names_that_their_writers_give_them():
    assert gpu_check.SELF_CHECK == self_check.FILE
    assert gpu_check.TUNE == tune.FILE
