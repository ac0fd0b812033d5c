# SPDX-License-Identifier: Apache-2.0
"""What a new GPU must show, in one flat folder: tests, kernel self-check, quick benchmark."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import environment

LOG, SUMMARY, JUNIT = "log.txt", "summary.json", "junit.xml"

# The parts' limits add up to less than ten minutes.
TESTS_S, SELF_CHECK_S, BENCHMARK_S = 240, 110, 230


@dataclass(frozen=True)
class Part:
    """One command and the seconds it may take."""

    name: str
    command: Sequence[str]
    limit_s: float


def parts(folder: Path) -> tuple[Part, ...]:
    """The parts, in order; what they write goes straight into `folder`."""
    python = sys.executable
    tests = ("-m", "pytest", "-q", "-m", "gpu", f"--junitxml={folder / JUNIT}")
    self_check = "from seqlib_kernels.testing import check_kernels; print(check_kernels('cuda'))"
    benchmark = ("-m", "bench", "run", "--suite", "gpu-quick", "--out", str(folder))
    return (
        Part("GPU tests", (python, *tests), TESTS_S),
        Part("check_kernels", (python, "-c", self_check), SELF_CHECK_S),
        Part("benchmark", (python, *benchmark), BENCHMARK_S),
    )


def gpu_check(folder: Path, device: dict[str, Any], todo: Sequence[Part] | None = None) -> int:
    """Run every part, also behind one that failed; 0 if all ended well, else 1.

    Args:
        folder: gets log.txt, summary.json (outcomes, device, versions, commit), junit.xml,
            results.jsonl, report.md and chart.png; what an earlier check left there is replaced.
        device: what to say of the device in the summary.
        todo: the parts, instead of all.
    """
    folder = folder.resolve()  # the parts run in the checkout
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LOG, SUMMARY, JUNIT, "results.jsonl", "report.md", "chart.png"):
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

        for part in parts(folder) if todo is None else todo:
            tell(f"\n=== {part.name}: {' '.join(part.command)}\n")
            start = time.monotonic()
            status, outcome = _run(part, tell)
            spent = round(time.monotonic() - start, 1)
            tell(f"=== {part.name}: {outcome} after {spent} s\n")
            outcomes[part.name] = {"outcome": outcome, "status": status, "seconds": spent}
            # After every part, so that a kill leaves what is known.
            summary = json.dumps({"parts": outcomes, **about}, indent=1) + "\n"
            (folder / SUMMARY).write_text(summary, encoding="utf-8")
    return 0 if all(o["outcome"] == "ok" for o in outcomes.values()) else 1


def _run(part: Part, tell: Callable[[str], None]) -> tuple[int, str]:
    """The exit status, and "ok", "failed" or "out of time"."""
    process = subprocess.Popen(
        part.command,
        cwd=environment.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
            os.killpg(process.pid, signal.SIGKILL)  # its compiler processes with it

    timer = threading.Timer(part.limit_s, stop)
    timer.start()
    try:
        with process:
            for line in process.stdout or ():
                tell(line)
    finally:
        timer.cancel()
    if late.is_set():
        return process.returncode, "out of time"
    return process.returncode, "ok" if process.returncode == 0 else "failed"
