# SPDX-License-Identifier: Apache-2.0
"""A GPU as a device to time on."""

import os
import shutil
import statistics
import subprocess
from typing import Any

import torch

from .device import Ceilings, MiB, ignore_mark, real
from .timing import Run, Sample


class Gpu:
    """An NVIDIA or AMD GPU, timed by its own events with the second-level cache cleared.

    Args:
        cuda: the module `torch.cuda`, or a stand-in.
        torch_device: where tensors go.
        flush_bytes: size of the buffer whose overwriting clears the cache; copies of four times
            its size measure the bandwidth.
        matrix: rows of the square matrices whose product measures the rate of operations.
    """

    kind = "cuda"
    headline = "median"
    clock = "device events"

    def __init__(
        self,
        cuda: Any = torch.cuda,
        torch_device: str = "cuda",
        flush_bytes: int = 256 * MiB,
        matrix: int = 8192,
    ) -> None:
        self._cuda = cuda
        self.torch_device = torch.device(torch_device)
        self._flush = torch.empty(flush_bytes // 4, dtype=torch.int32, device=torch_device)
        self._matrix = matrix

    def set_threads(self, threads: int) -> None:
        """The CPU only draws inputs and compares results: it keeps its threads."""

    def synchronize(self) -> None:
        self._cuda.synchronize()

    def sample(self, run: Run) -> Sample:
        start, middle, end = (self._cuda.Event(enable_timing=True) for _ in range(3))
        marked = False

        def mark() -> None:
            nonlocal marked
            middle.record()
            marked = True

        self._flush.zero_()
        start.record()
        run(mark)
        end.record()
        self._cuda.synchronize()
        after_mark = middle.elapsed_time(end) / 1e3 if marked else None
        return Sample(start.elapsed_time(end) / 1e3, after_mark)

    def peak_bytes(self, run: Run) -> int | None:
        self._cuda.synchronize()
        self._cuda.reset_peak_memory_stats()
        before = self._cuda.memory_allocated()
        run(ignore_mark)
        self._cuda.synchronize()
        return self._cuda.max_memory_allocated() - before

    def ceilings(self, dtype: torch.dtype) -> Ceilings:
        """A large copy, and a product of square matrices of `dtype`: medians of ten each."""
        source = self._flush.new_ones(4 * self._flush.numel())
        target = torch.empty_like(source)
        copy = self._median(lambda _: target.copy_(source))
        copied = 2 * source.numel() * source.element_size()
        x = torch.randn(self._matrix, self._matrix, device=self.torch_device).to(real(dtype))
        product = self._median(lambda _: x @ x)
        return Ceilings(copied / copy, 2 * self._matrix**3 / product)

    def facts(self) -> dict[str, Any]:
        return {
            "device": self._cuda.get_device_name(),
            "driver": _driver(),
            "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "default"),
            "load": round(os.getloadavg()[0], 2),
        }

    def _median(self, run: Run) -> float:
        self.sample(run)
        return statistics.median(self.sample(run).total for _ in range(10))


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.split("\n")[0].strip() or None
