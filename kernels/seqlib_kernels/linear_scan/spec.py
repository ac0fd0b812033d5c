# SPDX-License-Identifier: Apache-2.0
"""The linear scan as tests and benchmarks see it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator

from .._core.spec import Case, Inputs, OpSpec
from . import reference
from .launch import LAUNCH
from .op import linear_scan
from .step import linear_scan_step


def _real(B: int, T: int, dims: Mapping[str, int], generator: Generator) -> Inputs:
    """Multipliers over the whole of (-1, 1), one in eight exactly zero."""
    shape = (B, T, dims["D"])
    a = torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=generator)
    a = torch.where(torch.rand(shape, generator=generator) < 1 / 8, 0.0, a)
    return {"a": a, "b": torch.randn(shape, dtype=torch.float64, generator=generator)}


def _complex(B: int, T: int, dims: Mapping[str, int], generator: Generator) -> Inputs:
    """Multipliers inside the unit disc, one in eight exactly zero."""
    real = _real(B, T, dims, generator)
    shape = real["a"].shape
    angle = torch.empty(shape, dtype=torch.float64).uniform_(
        -torch.pi, torch.pi, generator=generator
    )
    imag = torch.randn(shape, dtype=torch.float64, generator=generator)
    return {"a": torch.polar(real["a"].abs(), angle), "b": torch.complex(real["b"], imag)}


def _constant(value: float) -> Any:
    return lambda inputs: {**inputs, "a": torch.full_like(inputs["a"], value)}


def _signs(inputs: Inputs) -> Inputs:
    """|a| = 0.999 with mixed signs: a long memory, where rounding errors add up."""
    a = inputs["a"]
    return {**inputs, "a": torch.where(a.real > 0, 0.999, -0.999).to(a.dtype)}


_EXTREMES = {
    "a = 0": _constant(0.0),
    "a = 1": _constant(1.0),
    "a = -1": _constant(-1.0),
    "a = +-0.999": _signs,
    "b * 1e4": lambda inputs: {**inputs, "b": inputs["b"] * 1e4},
}
_SIZES = {"small": {"D": 3}, "odd": {"D": 5}, "extremes": _EXTREMES}
_COMPLEX = (torch.complex128, torch.complex64)


def _elements(B: int, T: int, dims: Mapping[str, int], options: Mapping[str, Any]) -> int:
    return B * T * dims["D"]


SPEC = OpSpec(
    name="linear_scan",
    op=linear_scan,
    reference=reference.linear_scan,
    step=linear_scan_step,
    cases=(
        Case(name="real", make=_real, **_SIZES),
        Case(name="real reverse", make=_real, options={"reverse": True}, **_SIZES),
        Case(name="complex", make=_complex, dtypes=_COMPLEX, **_SIZES),
        Case(
            name="complex reverse",
            make=_complex,
            dtypes=_COMPLEX,
            options={"reverse": True},
            **_SIZES,
        ),
    ),
    state_shape=lambda N, dims: (N, dims["D"]),
    complex_state=lambda case: case.startswith("complex"),
    tiles=(8,),
    launch=LAUNCH,
    exact_cut={"cpu": 1, "triton": 32},
    # The common bounds hold. Measured on the CPU at T = 4096, D = 64, in eps: 1.6 (float64),
    # 1.1 (float32), 0.8 (bfloat16), 0.7 (float16); with |a| = 0.999 or 1, where rounding errors
    # add up, 17.4, 14.6, 0.6, 0.7.
    # One multiplication and one addition of reals; the complex cases cost four times as much.
    flops=lambda *size: 2 * _elements(*size),
    backward_flops=lambda *size: 3 * _elements(*size),
    # a, b, h; then a, h, dh, da, db.
    bytes=lambda B, T, dims, options, itemsize: 3 * itemsize * B * T * dims["D"],
    backward_bytes=lambda B, T, dims, options, itemsize: 5 * itemsize * B * T * dims["D"],
)
