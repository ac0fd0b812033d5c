# SPDX-License-Identifier: Apache-2.0
"""Compile what launchers launch, for a GPU that need not be there.

Launchers run on meta tensors while Triton believes in a device of the wanted kind; every launch
is compiled and none is executed. So what is compiled is what would run: the same tiles, flags,
warps, dtypes and specialisations.
"""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

# Shared memory of one program, in bytes.
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled for one target: what it takes of a multiprocessor."""

    kernel: str
    flags: str
    warps: int
    registers: int
    spilled: int
    shared: int

    def __str__(self) -> str:
        return (
            f"{self.kernel} [{self.flags}] {self.warps} warps: {self.registers} registers, "
            f"{self.spilled} spilled, {self.shared} bytes shared"
        )


def target(arch: str) -> GPUTarget:
    """The compilation target that launch rows call `arch`."""
    if arch.startswith("sm_"):
        return GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    return GPUTarget("hip", arch, 64)


class _Offline:
    """As much of a Triton driver as compilation asks for."""

    def __init__(self, arch: str) -> None:
        self._arch = arch

    def get_current_target(self) -> GPUTarget:
        return target(self._arch)

    def get_current_device(self) -> str:
        return self._arch  # kernels keep one cache of compiled code per device

    def get_current_stream(self, device: str) -> int:
        return 0


@contextlib.contextmanager
def compiling_for(arch: str) -> Iterator[list[Compiled]]:
    """Compile every launch inside the block for `arch`; the list fills with what came out."""
    compiled: list[Compiled] = []
    seen: set[int] = set()

    def launch(kernel: JITFunction, grid: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> None:
            result: Any = kernel.run(*args, grid=grid, warmup=True, **kwargs)
            if id(result) not in seen:
                seen.add(id(result))
                compiled.append(_measure(result, arch, kwargs))

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.driver, "_active", _Offline(arch))
        patch.setattr(JITFunction, "__getitem__", launch)
        yield compiled


def _measure(kernel: Any, arch: str, arguments: dict[str, Any]) -> Compiled:
    registers, spilled = _nvidia(kernel) if arch.startswith("sm_") else _amd(kernel)
    flags = " ".join(f"{n}={v}" for n, v in arguments.items() if n.isupper())
    shared = kernel.metadata.shared
    return Compiled(
        kernel.metadata.name, flags, kernel.metadata.num_warps, registers, spilled, shared
    )


def _nvidia(kernel: Any) -> tuple[int, int]:
    """Registers per thread and bytes of stack, which kernels use for spills alone."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = {n: int(v) for n, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return usage["REG"], usage["STACK"] + usage["LOCAL"]


def _amd(kernel: Any) -> tuple[int, int]:
    """Vector registers per thread and how many registers were spilled."""
    text = kernel.asm["amdgcn"]
    counts = {n: int(v) for n, v in re.findall(r"\.(\w+_count):\s+(\d+)", text)}
    return counts["vgpr_count"], counts["vgpr_spill_count"] + counts["sgpr_spill_count"]
