# SPDX-License-Identifier: Apache-2.0
"""The diagonal state-space model as tests and benchmarks see it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator

from ..._core.spec import Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import diagonal_ssm
from .step import diagonal_ssm_step

Sizes = Mapping[str, int]


def _inputs(
    *, copies: int | None = None, per_mode: bool = False, skip: bool = True
) -> Callable[..., Inputs]:
    """A maker of inputs: S4D-Lin with so many copies, one per channel by default."""

    def make(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
        H, M = dims["H"], dims["M"]
        S = copies or H
        draw = Draw(generator)
        imaginary = torch.pi * torch.arange(M, dtype=torch.float64)
        steps = (H, M) if per_mode else (H,)
        inputs = {
            "u": draw.normal(B, T, H),
            "A": torch.stack((-0.25 - draw.uniform(S, M), imaginary.expand(S, M)), -1),
            "B": draw.normal(S, M, 2),
            "C": draw.normal(H, M, 2) / M**0.5,
            "dt": 0.001 * 100 ** draw.uniform(*steps),
        }
        return inputs | {"D": draw.normal(H)} if skip else inputs

    return make


def _eigenvalue(real: float, imaginary: float) -> Callable[[Inputs], Inputs]:
    value = torch.tensor((real, imaginary), dtype=torch.float64)
    return lambda inputs: {**inputs, "A": value.expand_as(inputs["A"])}


_EXTREMES = {
    "A = 0": constant("A", 0.0),
    "A = -1e-4": _eigenvalue(-1e-4, 0.0),
    "A = -1e-4 + 3000i": _eigenvalue(-1e-4, 3000.0),
    "dt = 1e-6": constant("dt", 1e-6),
    "dt = 100": constant("dt", 100.0),
    "B = 0": constant("B", 0.0),
    "C = 0": constant("C", 0.0),
    "u * 1e4": scaled("u", 1e4),
}
_SHARED: dict[str, Any] = {
    "odd": {"H": 6, "M": 5},
    "constants": frozenset({"A", "B", "C", "dt", "D"}),
    "checked": frozenset({"dt"}),
    "extremes": _EXTREMES,
    # A multiplier so close to 1 loses up to half a unit in each of the 32 steps of a piece, and in
    # the loop over time 15 in 67 steps. Measured 31.
    "extreme_bounds": {"dt = 1e-6": 48},
}


def _modes(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    return B * T * dims["H"] * dims["M"]


def _numbers(B: int, T: int, dims: Sizes, channels: int) -> int:
    """Elements of so many tensors [B, T, H]."""
    return channels * B * T * dims["H"]


SPEC = OpSpec(
    name="diagonal_ssm",
    op=diagonal_ssm,
    reference=reference.diagonal_ssm,
    step=diagonal_ssm_step,
    cases=(
        Case(name="zoh", make=_inputs(), small={"H": 3, "M": 2}, **_SHARED),
        Case(
            name="bilinear",
            make=_inputs(per_mode=True, skip=False),
            options={"discretization": "bilinear", "rate": 0.5},
            small={"H": 3, "M": 2},
            **_SHARED,
        ),
        Case(name="shared", make=_inputs(copies=2), small={"H": 4, "M": 2}, **_SHARED),
        Case(
            name="without conjugates",
            make=_inputs(),
            options={"conj_sym": False},
            small={"H": 3, "M": 2},
            **_SHARED,
        ),
    ),
    state_shape=lambda Nseq, dims: (Nseq, dims["H"], dims["M"], 2),
    tiles=(32,),
    launch=LAUNCH,
    refused_on_gpu=frozenset({torch.float64}),
    exact_cut={"cpu": 32, "triton": 480, "interpreter": 48},
    spoils_chunks=frozenset({"triton"}),
    # Six multiply-adds forward; nineteen backward, the states of the forward pass among them.
    flops=lambda *size: 12 * _modes(*size),
    backward_flops=lambda *size: 38 * _modes(*size),
    # u, y; then u, dy, du.
    bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 2),
    backward_bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 3),
)
