# SPDX-License-Identifier: Apache-2.0
"""Every kernel and launch row compiles for the GPUs we support, without having one.

The launches are those of the ops themselves: they run on CPU tensors while a recorder stands in
for Triton's launcher, and what it recorded is compiled by Triton's own compiler. Spilled
registers and too much shared memory fail.
"""

import re
import subprocess
from typing import Any, NamedTuple

import pytest
import torch
from seqlib_kernels import testing
from seqlib_kernels._core import backend, launch
from seqlib_kernels.testing import Problem, solve

pytestmark = pytest.mark.aot


class Gpu(NamedTuple):
    backend: str
    arch: Any
    warp_size: int
    shared: int  # bytes a block may use
    ptxas: str | None


GPUS = {
    "sm_80": Gpu("cuda", 80, 32, 166_912, "sm_80"),
    "sm_90": Gpu("cuda", 90, 32, 232_448, "sm_90a"),
    "sm_100": Gpu("cuda", 100, 32, 232_448, "sm_100a"),
    "gfx942": Gpu("hip", "gfx942", 64, 65_536, None),
}
ROWS = [
    pytest.param(spec, row, id=f"{spec.name}: {i}")
    for spec in testing.SPECS
    if spec.launch is not None and spec.at_width is not None
    for i, row in enumerate(spec.launch.rows)
    if row.arch != launch.INTERPRETER
]
_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
}


@pytest.fixture
def launched(monkeypatch):
    """The launches of everything that runs in the test: (kernel, arguments by name, options)."""
    from triton.runtime.jit import JITFunction

    launches = []

    def run(kernel, *args, grid, warmup, **kwargs):
        names = {p.name for p in kernel.params}
        options = {n: kwargs.pop(n) for n in set(kwargs) - names}
        launches.append((kernel, kernel.signature.bind(*args, **kwargs).arguments, options))

    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(backend, "_problem", lambda name, device: None)
    return launches


def describe(kernel, arguments):
    """What Triton's own launcher would make of the arguments: types, constants, alignments."""
    types, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        special = not parameter.do_not_specialize
        if (
            parameter.is_constexpr
            or value is None
            or (special and type(value) is int and value == 1)
        ):
            types[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        if isinstance(value, torch.Tensor):
            types[parameter.name] = "*" + _TYPES[value.dtype]
            aligned = True
        else:
            types[parameter.name] = "i32" if isinstance(value, int) else "fp32"
            aligned = special and isinstance(value, int) and value % 16 == 0
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def compile_ahead(kernel, arguments, options, gpu: Gpu):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types, constants, attributes = describe(kernel, arguments)
    source = ASTSource(kernel, types, constants, attributes)
    target = GPUTarget(gpu.backend, gpu.arch, gpu.warp_size)
    return triton.compile(source, target=target, options=options)


def spilled_bytes(compiled, gpu: Gpu) -> int:
    """Bytes (NVIDIA) or registers (AMD) that the compiler could not keep in registers."""
    if gpu.ptxas is None:
        text = compiled.asm["amdgcn"]
        return sum(int(n) for n in re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", text))
    from triton.backends.nvidia.compiler import get_ptxas

    command = [get_ptxas(gpu.arch).path, "-v", "--gpu-name", gpu.ptxas, "-o", "/dev/null", "-"]
    done = subprocess.run(
        command, input=compiled.asm["ptx"], capture_output=True, text=True, check=True
    )
    found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert found is not None, done.stderr
    return int(found[1]) + int(found[2])


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
@pytest.mark.parametrize(("spec", "row"), ROWS)
def test_compiles_ahead_of_time(spec, row, gpu, launched, monkeypatch):
    monkeypatch.setattr(launch, "device_arch", lambda device: row.arch)
    picked = []

    def pick(*args, original=spec.launch.pick, **kwargs):
        picked.append(original(*args, **kwargs))
        return picked[-1]

    monkeypatch.setattr(spec.launch, "pick", pick)
    own = []
    for case in spec.cases:
        for dtype in case.dtypes:
            problem = Problem.draw(spec, case, 1, 3, spec.at_width(row.width), dtype=dtype)
            solve(spec.op, problem, backend="triton")
            own += launched if picked[-1] is row else []
            launched.clear()
    assert own, "no dtype gets this launch row"
    for kernel, arguments, options in own:
        compiled = compile_ahead(kernel, arguments, options, gpu)
        assert compiled.metadata.shared <= gpu.shared, kernel.__name__
        assert spilled_bytes(compiled, gpu) == 0, kernel.__name__
