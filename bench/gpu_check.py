# SPDX-License-Identifier: Apache-2.0
"""What a new GPU must show, in one flat folder: self-check, tests, quick benchmark.

Every part has its time and writes what it finds as it goes: what is stopped loses nothing else.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import environment, records
from .report import CHART, REPORT, write_report

LOG, SUMMARY, JUNIT = "log.txt", "summary.json", "junit.xml"
RESULTS = records.FILE
SELF_CHECK, TUNE = "self_check.jsonl", "tune.jsonl"

# The seconds of the parts. One that ends early leaves the rest of its time to those behind it.
SELF_CHECK_S, TESTS_S, BENCHMARK_S, TUNE_S = 140, 200, 180, 50
START_S, GRACE_S = 12, 8  # for imports; to write what is known when the time is over
PROCESSES = 8
# Of each process of the tests; inductor would start as many compilers as there are cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


@dataclass(frozen=True)
class Part:
    """One command, the seconds it may take, and what it gets of the environment besides.

    "{seconds}" in the command becomes the time it has for its work, START_S and GRACE_S off.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    environment: Mapping[str, str] = field(default_factory=dict)


def parts(folder: Path, *, tune: bool = False) -> tuple[Part, ...]:
    """The parts, in order; what they write goes straight into `folder`."""
    python = sys.executable
    self_check = (
        "import sys; from pathlib import Path; from bench.self_check import self_check; "
        "sys.exit(not self_check(Path(sys.argv[1]), limit_s=float(sys.argv[2])))"
    )
    tests = ["-m", "pytest", "-v", "-m", "gpu", f"--junitxml={folder / JUNIT}", "--durations=20"]
    tests.append("--continue-on-collection-errors")  # a package that only CPU tests want
    if importlib.util.find_spec("xdist") is not None:  # nearly all of the time is compilation
        tests += ["-n", str(max(1, min(PROCESSES, (os.cpu_count() or 1) // 2)))]
    bench, out = ("-m", "bench"), ("--out", str(folder))
    limit = ("--time-limit", "{seconds}")
    found = [
        Part("self-check", (python, "-c", self_check, str(folder), "{seconds}"), SELF_CHECK_S),
        Part("GPU tests", (python, *tests), TESTS_S, ONE_THREAD),
        Part("benchmark", (python, *bench, "run", "--suite", "gpu-quick", *out), BENCHMARK_S),
    ]
    if tune:
        found.append(Part("tune", (python, *bench, "tune", *out, *limit), TUNE_S))
    return tuple(found)


def gpu_check(folder: Path, device: dict[str, Any], todo: Sequence[Part] | None = None) -> int:
    """Run every part, also behind one that failed; 0 if all ended well, else 1.

    Args:
        folder: gets log.txt, summary.json (outcomes, device, versions, commit), self_check.jsonl,
            junit.xml, results.jsonl, report.md, chart.png and tune.jsonl; what an earlier check
            left there is replaced.
        device: what to say of the device in the summary.
        todo: the parts, instead of all.
    """
    folder = folder.resolve()  # the parts run in the checkout
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LOG, SUMMARY, JUNIT, RESULTS, REPORT, CHART, SELF_CHECK, TUNE):
        (folder / name).unlink(missing_ok=True)
    commit, dirty = environment.commit()
    about = {"commit": commit, "dirty": dirty, **device, **environment.versions()}
    outcomes: dict[str, dict[str, Any]] = {}
    with (folder / LOG).open("w", encoding="utf-8") as log:

        def tell(text: str) -> None:
            log.write(text)
            log.flush()
            sys.stdout.write(text)
            sys.stdout.flush()

        end = time.monotonic()
        for part in parts(folder) if todo is None else todo:
            start = time.monotonic()
            end += part.limit_s
            seconds = f"{max(1.0, end - start - START_S - GRACE_S):.0f}"
            command = [word.replace("{seconds}", seconds) for word in part.command]
            tell(f"\n=== {part.name}: {' '.join(command)}\n")
            status, outcome = _run(command, part.environment, end - start, tell)
            spent = round(time.monotonic() - start, 1)
            tell(f"=== {part.name}: {outcome} after {spent} s\n")
            outcomes[part.name] = {"outcome": outcome, "status": status, "seconds": spent}
            # After every part, so that a kill leaves what is known.
            summary = json.dumps({"parts": outcomes, **about}, indent=1) + "\n"
            (folder / SUMMARY).write_text(summary, encoding="utf-8")
    if (folder / RESULTS).is_file() and not (folder / REPORT).is_file():
        write_report(folder)  # of what the benchmark had until it was stopped
    return 0 if all(o["outcome"] == "ok" for o in outcomes.values()) else 1


def _run(
    command: Sequence[str],
    variables: Mapping[str, str],
    limit_s: float,
    tell: Callable[[str], None],
) -> tuple[int, str]:
    """The exit status, and "ok", "failed" or "out of time"."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
        cwd=environment.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.send_signal(signal.SIGINT)  # pytest writes its report, a search what it found

    def kill() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
            os.killpg(process.pid, signal.SIGKILL)  # its compiler processes with it

    grace = min(GRACE_S, limit_s / 2)
    timers = [threading.Timer(limit_s - grace, stop), threading.Timer(limit_s, kill)]
    for timer in timers:
        timer.start()
    try:
        with process:
            for line in process.stdout or ():
                tell(line)
    finally:
        for timer in timers:
            timer.cancel()
    if late.is_set():
        return process.returncode, "out of time"
    return process.returncode, "ok" if process.returncode == 0 else "failed"


def _hear_interrupts() -> None:
    """In a part's process: a shell's background job would leave it deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
