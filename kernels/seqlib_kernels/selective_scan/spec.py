# SPDX-License-Identifier: Apache-2.0
"""The selective scan as tests and benchmarks see it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from .._core.spec import TOL, Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import selective_scan
from .step import selective_scan_step

Sizes = Mapping[str, int]


def _inputs(*, whole: bool, grouped: bool = False) -> Callable[..., Inputs]:
    """A maker of inputs: a `whole` mixer's, or step sizes as they are and nothing optional."""

    def make(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
        D, N = dims["D"], dims["N"]
        shared = (B, T, dims["G"], N) if grouped else (B, T, N)

        draw = Draw(generator)

        def even(*shape: int) -> Tensor:
            # Products of many normal numbers have outliers, whose rounding alone would be seen.
            return 2 * draw.uniform(*shape) - 1

        # Delta A over (-3, 0): eigenvalues over nearly all of (0, 1), or (-1, 1).
        inputs = {
            "u": even(B, T, D),
            "dt": draw.normal(B, T, D) if whole else draw.uniform(B, T, D),
            "A": -3 * draw.uniform(D, N),
            "B": even(*shared),
            "C": even(*shared),
        }
        if whole:
            inputs |= {"D": even(D), "z": 2 * even(B, T, D), "dt_bias": draw.normal(D) - 1}
        return inputs

    return make


def _padding(inputs: Inputs) -> Inputs:
    """Every third step changes nothing."""
    dt = inputs["dt"].clone()
    dt[:, 1::3] = -torch.inf
    return {**inputs, "dt": dt}


_EXTREMES = {
    "dt = 0": constant("dt", 0.0),
    "dt * 100": scaled("dt", 100.0),  # a = 0, or -1
    "A / 1000": scaled("A", 1e-3),  # |a| close to 1
    "A = 0": constant("A", 0.0),
    "u * 1e4": scaled("u", 1e4),
}
_CONSTANTS = frozenset({"A", "D", "dt_bias"})
_SIZES: dict[str, Any] = {
    "small": {"D": 3, "N": 2},
    "odd": {"D": 5, "N": 3},
    "constants": _CONSTANTS,
}
_NEGATIVE = {"negative_eigenvalues": True}


def _elements(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    return B * T * dims["D"] * dims["N"]


def _numbers(B: int, T: int, dims: Sizes, channels: int, shared: int) -> int:
    """Elements of so many tensors [B,T,D] and [B,T,G,N]."""
    return B * T * (channels * dims["D"] + shared * dims.get("G", 1) * dims["N"])


SPEC = OpSpec(
    name="selective_scan",
    op=selective_scan,
    reference=reference.selective_scan,
    step=selective_scan_step,
    cases=(
        Case(name="plain", make=_inputs(whole=False), extremes=_EXTREMES, **_SIZES),
        Case(
            name="mixer",
            make=_inputs(whole=True),
            options={**_NEGATIVE, "dt_softplus": True},
            extremes={"padding": _padding, "dt + 30": lambda x: {**x, "dt": x["dt"] + 30}},
            **_SIZES,
        ),
        Case(
            name="grouped",
            make=_inputs(whole=False, grouped=True),
            options=_NEGATIVE,
            extremes=_EXTREMES,
            small={"D": 4, "N": 2, "G": 2},
            odd={"D": 6, "N": 3, "G": 2},
            constants=_CONSTANTS,
        ),
    ),
    state_shape=lambda N, dims: (N, dims["D"], dims["N"]),
    tiles=(32,),
    launch=LAUNCH,
    exact_cut={"cpu": 1, "triton": 16},
    # Measured on CPUs at T = 67, worst result of three draws: float64 15 eps, float32 9, bfloat16
    # 1.8, float16 1.1. With "dt * 100" float32 16, where the loop over time in float32 has 23: the
    # rounding of a Delta A in the hundreds is that of the exponential's argument.
    tolerance={**TOL, torch.float32: 32},
    # The exponential counted as one operation.
    flops=lambda *size: 7 * _elements(*size),
    backward_flops=lambda *size: 22 * _elements(*size),
    # u, dt, y, and B, C; then u, dt, dy, du, ddt, and B, C, dB, dC.
    bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 3, 2),
    backward_bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 5, 4),
)
