# SPDX-License-Identifier: Apache-2.0
"""What is timed: ops at shapes, and the tensors that such a workload stands for."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from seqlib_kernels._core.spec import Case, Inputs, OpSpec
from seqlib_kernels.testing import SPECS
from torch import Generator, Tensor

# Small tensors that models keep in float32 where the rest has 16 bits.
FLOAT32 = ("beta", "g", "alpha", "A", "D", "dt_bias")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One op at one shape: `dims` are the sizes beside B and T, as the op's spec names them."""

    op: str
    case: str
    B: int
    T: int
    dims: Mapping[str, int]
    dtype: str = "float32"

    @property
    def shape(self) -> dict[str, int]:
        return {"B": self.B, "T": self.T, **self.dims}

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.shape.items())
        return f"{self.op} {self.case} {sizes} {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A workload's tensors: `inputs` by argument name, `cotangent` = d(loss)/d(output)."""

    workload: Workload
    spec: OpSpec
    case: Case
    inputs: Inputs
    cotangent: Tensor


def load_spec(op: str) -> OpSpec:
    """What `op` tells tests and benchmark about itself."""
    return next(spec for spec in SPECS if spec.name == op)


def make_problem(workload: Workload, spec: OpSpec, device: torch.device) -> Problem:
    """Draw the inputs of `workload` and a random cotangent for its output, always the same.

    Raises:
        ValueError: the spec has no case of the workload's name.
    """
    cases = {case.name: case for case in spec.cases}
    if workload.case not in cases:
        raise ValueError(
            f"case must be one of {', '.join(cases)} for {spec.name}, got {workload.case!r}"
        )
    case = cases[workload.case]
    generator = Generator().manual_seed(workload.T)
    dtype = getattr(torch, workload.dtype)

    def place(name: str, x: Tensor) -> Tensor:
        target = torch.promote_types(dtype, torch.float32) if name in FLOAT32 else dtype
        return x.to(device, target.to_complex() if x.is_complex() else target)

    drawn = case.make(workload.B, workload.T, workload.dims, generator)
    inputs = {name: place(name, x) for name, x in drawn.items()}
    shape = (workload.B, workload.T, *_output_dims(spec, case, inputs))
    like = next(iter(drawn.values()))
    cotangent = torch.randn(shape, generator=generator, dtype=like.dtype)
    return Problem(
        workload=workload, spec=spec, case=case, inputs=inputs, cotangent=place("", cotangent)
    )


def _output_dims(spec: OpSpec, case: Case, inputs: Inputs) -> tuple[int, ...]:
    """The sizes of the output behind B and T, seen on the first token."""
    output, _ = spec.reference(**case.tokens(inputs, 0, 1), **case.options)
    return tuple(output.shape[2:])
