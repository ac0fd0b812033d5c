# SPDX-License-Identifier: Apache-2.0
"""What a benchmark asks of the device it runs on."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .timing import Run, Sample

MiB = 2**20


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches at most, measured: bytes moved and operations, each per second."""

    copy_bytes_per_s: float
    flops_per_s: float


class Device(Protocol):
    """A device on which contenders are timed.

    Attributes:
        kind: "cpu" or "cuda", as suites name it.
        torch_device: where tensors go.
        clock: what a sample measures.
        headline: which number of a Summary stands for all, "best" or "median".
    """

    @property
    def kind(self) -> str: ...
    @property
    def torch_device(self) -> torch.device: ...
    @property
    def clock(self) -> str: ...
    @property
    def headline(self) -> str: ...

    def set_threads(self, threads: int) -> None:
        """Use so many CPU threads from now on."""
        ...

    def synchronize(self) -> None:
        """Wait for all work that was started."""
        ...

    def sample(self, run: Run) -> Sample:
        """Time one run."""
        ...

    def peak_bytes(self, run: Run) -> int | None:
        """How far memory rises above what is held before the run; None where nothing tells."""
        ...

    def ceilings(self, dtype: torch.dtype) -> Ceilings:
        """Measure the ceilings now, for operands of `dtype`."""
        ...

    def facts(self) -> dict[str, Any]:
        """device, driver, allocator and load, for the record."""
        ...


def ignore_mark() -> None:
    """The mark of a run that nobody times."""


def real(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parts of a complex dtype; any other dtype itself."""
    return dtype.to_real() if dtype.is_complex else dtype
