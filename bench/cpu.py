# SPDX-License-Identifier: Apache-2.0
"""The CPU as a device to time on."""

import ctypes
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seqlib.training.cpu import tune

from .device import Ceilings, MiB, ignore_mark, real
from .timing import Run, Sample

COPY_BYTES = 256 * MiB  # more than most caches hold
MATRIX = 1024


class Cpu:
    """CPU time of the process with one thread, immune to other load; wall time with more."""

    kind = "cpu"
    headline = "best"
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        huge_pages = "+thp" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else ""
        self._allocator = ("mallopt" if tune() else "default") + huge_pages
        self.set_threads(1)

    def set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._now = time.process_time if threads == 1 else time.perf_counter
        self.clock = "process CPU time" if threads == 1 else "wall time"

    def synchronize(self) -> None:
        """Nothing runs behind the caller's back."""

    def sample(self, run: Run) -> Sample:
        marks: list[float] = []
        start = self._now()
        run(lambda: marks.append(self._now()))
        end = self._now()
        return Sample(end - start, end - marks[0] if marks else None)

    def peak_bytes(self, run: Run) -> int | None:
        """Resident memory; None where the system doesn't tell."""
        return peak_bytes(lambda: run(ignore_mark))

    def ceilings(self, dtype: torch.dtype) -> Ceilings:
        """A copy of COPY_BYTES; a product of MATRIX x MATRIX matrices in float32 or float64.

        16-bit operands are measured against float32 too: without hardware support their own
        products are a hundred times slower, and no yardstick.
        """
        source = torch.ones(COPY_BYTES // 4)
        target = torch.empty_like(source)
        copy = min(self.sample(lambda _: target.copy_(source)).total for _ in range(5))
        x = torch.randn(MATRIX, MATRIX, dtype=torch.promote_types(real(dtype), torch.float32))
        product = min(self.sample(lambda _: x @ x).total for _ in range(5))
        return Ceilings(2 * COPY_BYTES / copy, 2 * MATRIX**3 / product)

    def facts(self) -> dict[str, Any]:
        return {
            "device": _name(),
            "driver": None,
            "allocator": self._allocator,
            "load": round(os.getloadavg()[0], 2),
        }


def _release() -> None:
    """Give freed memory back to the system, so that the peak measured next is the run's own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)


def peak_bytes(run: Callable[[], object]) -> int | None:
    """The most resident memory during a run above that before.

    None where the system isn't Linux or doesn't let the peak be reset.
    """
    _release()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    except OSError:
        return None
    before = _status_bytes("VmRSS")
    run()
    return max(0, _status_bytes("VmHWM") - before)


def _name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no line {field}")
