# SPDX-License-Identifier: Apache-2.0
"""The MIMO state-space model as tests and benchmarks see it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator

from ..._core.chunks import itemsize
from ..._core.spec import Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import mimo_ssm
from .step import mimo_ssm_step

Sizes = Mapping[str, int]


def _inputs(*, skip: bool = False, variable: bool = False) -> Callable[..., Inputs]:
    """A maker of inputs: steps dt A that decay by up to 0.6 and turn by up to 1.6 radians."""

    def make(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
        H, P = dims["H"], dims["P"]
        draw = Draw(generator)
        inputs = {
            "u": draw.normal(B, T, H),
            "A": torch.stack((-0.05 - draw.uniform(P), 8 * draw.uniform(P) - 4), -1),
            "B": draw.normal(P, H, 2) / H**0.5,
            "C": draw.normal(H, P, 2) / P**0.5,
            "dt": 0.05 + 0.35 * draw.uniform(P),
        }
        if skip:
            inputs["D"] = draw.normal(H)
        if variable:
            inputs["rate"] = 0.1 + 2 * draw.uniform(B, T)
        return inputs

    return make


def _eigenvalues(real: float, imag: float) -> Callable[[Inputs], Inputs]:
    value = torch.tensor((real, imag), dtype=torch.float64)
    return lambda inputs: {**inputs, "A": value.expand_as(inputs["A"])}


def _holes(inputs: Inputs) -> Inputs:
    """Every third token changes nothing."""
    rate = inputs["rate"].clone()
    rate[:, 1::3] = 0.0
    return {**inputs, "rate": rate}


_EXTREMES = {
    "A = 0": constant("A", 0.0),
    "A = -1e-4 + 3000i": _eigenvalues(-1e-4, 3000.0),
    "A * 100": scaled("A", 100.0),
    "dt = 1e-6": constant("dt", 1e-6),
    "u * 1e4": scaled("u", 1e4),
}
_SHARED: dict[str, Any] = {
    "small": {"H": 3, "P": 2},
    "odd": {"H": 5, "P": 11},
    "constants": frozenset({"A", "B", "C", "dt", "D"}),
    "checked": frozenset({"dt"}),
}


def _products(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    """The multiply-adds of one product with B or C."""
    return 2 * B * T * dims["H"] * dims["P"]


def _numbers(B: int, T: int, dims: Sizes, of_tokens: int, of_weights: int) -> int:
    """Elements of so many tensors like u and like B."""
    return dims["H"] * (of_tokens * B * T + of_weights * 2 * dims["P"])


SPEC = OpSpec(
    name="mimo_ssm",
    op=mimo_ssm,
    reference=reference.mimo_ssm,
    step=mimo_ssm_step,
    cases=(
        Case(name="zoh", make=_inputs(skip=True), extremes=_EXTREMES, **_SHARED),
        Case(
            name="bilinear",
            make=_inputs(),
            options={"discretization": "bilinear", "conj_sym": False},
            extremes={**_EXTREMES, "dt = 100": constant("dt", 100.0)},
            **_SHARED,
        ),
        Case(
            name="variable",
            make=_inputs(skip=True, variable=True),
            extremes={**_EXTREMES, "rate = 0": constant("rate", 0.0), "holes": _holes},
            # Products around `linear_scan` round multipliers to float32, those next to 1 the same
            # way in every step: measured on CPUs, T = 131, three draws, 27 eps.
            extreme_bounds={"dt = 1e-6": 48},
            **_SHARED,
        ),
    ),
    state_shape=lambda Nseq, dims: (Nseq, dims["P"], 2),
    tiles=(64, 256),
    launch=LAUNCH,
    launch_itemsize=itemsize,
    exact_cut={"cpu": 64, "triton": 512, "interpreter": 64},
    # Two products forward; backward the first of them again and four for the gradients.
    flops=lambda *size: 2 * 2 * _products(*size),
    backward_flops=lambda *size: 2 * 5 * _products(*size),
    # u, y, B, C; then u, dy, du and B, C and their gradients.
    bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 2, 2),
    backward_bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 3, 4),
)
