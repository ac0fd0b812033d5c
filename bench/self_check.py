# SPDX-License-Identifier: Apache-2.0
"""The checks of `seqlib_kernels.testing.check_kernels`, side by side, each written when it is done.

One after the other they would take minutes, nearly all of it compilation; and a kernel that
crashes would take the other results with it.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from seqlib_kernels import testing

from .isolated import Crashed, Isolated, NotStartedError, OutOfTimeError, spread
from .records import append_lines

FILE = "self_check.jsonl"
CHECK_S = 60
FIELDS = ("op", "case", "launch", "dtype", "error", "bound")


def checks(device: str) -> Callable[[int], float]:
    """The function of a process: the error in eps of a check by its place in the list."""
    torch.set_num_threads(1)
    listed = list(testing.list_checks(device))
    return lambda i: listed[i].error()


def self_check(
    folder: Path,
    *,
    device: str = "cuda",
    processes: int | None = None,
    limit_s: float = 3600,
    make: Callable[[str], Callable[[int], float]] = checks,
) -> bool:
    """Run all checks; a line for each goes to self_check.jsonl in `folder` and to the screen.

    Returns whether all were done and within their bounds.
    """
    listed = list(testing.list_checks(device))
    count = processes or max(1, min(8, (os.cpu_count() or 1) // 2))
    workers = [Isolated(make, device) for _ in range(count)]
    deadline = time.monotonic() + limit_s
    bad = missing = 0
    requests = [(i,) for i in range(len(listed))]
    try:
        for (i,), answer in spread(workers, requests, limit_s=CHECK_S, deadline=deadline):
            if isinstance(answer, (OutOfTimeError, NotStartedError)):
                missing += 1
                continue
            crashed = isinstance(answer, Crashed)
            row = listed[i].row(float("inf") if crashed else answer)
            line: dict[str, Any] = dict(zip(FIELDS, row, strict=True))
            line["ok"] = row[4] <= row[5]
            line["message"] = str(answer) if crashed else None
            bad += not line["ok"]
            append_lines(folder / FILE, [line])
            outcome = line["message"] or f"{row[4]:.2f} eps, allowed {row[5]:.0f}"
            print(f"{'ok   ' if line['ok'] else 'WRONG'} {' '.join(row[:4])}: {outcome}")
            sys.stdout.flush()
    finally:
        for worker in workers:
            worker.close()
    print(f"{len(listed)} checks: {bad} failed, {missing} not done")
    return not bad and not missing
