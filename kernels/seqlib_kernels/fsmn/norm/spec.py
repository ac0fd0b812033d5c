# SPDX-License-Identifier: Apache-2.0
"""Normalisation over sequences as tests and benchmarks see it."""

from collections.abc import Mapping
from typing import Any

from torch import Generator

from ..._core.spec import Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import sequence_norm

Sizes = Mapping[str, int]


def _inputs(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
    C, draw = dims["C"], Draw(generator)
    return {"x": draw.normal(B, T, C), "weight": draw.normal(C), "bias": draw.normal(C)}


def _elements(B: int, T: int, dims: Sizes, *_: Any) -> int:
    return B * T * dims["C"]


_MAP: dict[str, Any] = {
    "make": _inputs,
    "constants": frozenset({"weight", "bias"}),
    "stateless": True,
    "small": {"C": 3},
    "odd": {"C": 5},
    "extremes": {"weight = 0": constant("weight", 0.0), "x * 1e4": scaled("x", 1e4)},
}

SPEC = OpSpec(
    name="sequence_norm",
    op=sequence_norm,
    reference=reference.sequence_norm,
    step=None,
    cases=(
        Case(name="sequence", options={"eps": 1e-8}, **_MAP),
        # Two steps make +-1 of almost every channel, whose gradient is then eps / var of what was
        # subtracted for it: with an eps as small as models have, no digits would be left.
        Case(name="per channel", options={"per_channel": True, "eps": 0.1}, **_MAP),
    ),
    state_shape=lambda N, dims: (),
    tiles=(32,),
    launch=LAUNCH,
    # Distances, their squares, the affine map; then two sums and the subtraction of both means.
    flops=lambda *size: 8 * _elements(*size),
    backward_flops=lambda *size: 13 * _elements(*size),
    bytes=lambda B, T, dims, options, itemsize: itemsize * 3 * _elements(B, T, dims),
    backward_bytes=lambda B, T, dims, options, itemsize: itemsize * 5 * _elements(B, T, dims),
)
