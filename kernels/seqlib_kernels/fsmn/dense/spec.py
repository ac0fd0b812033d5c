# SPDX-License-Identifier: Apache-2.0
"""The dense memory as tests and benchmarks see it."""

from collections.abc import Mapping
from typing import Any

from torch import Generator

from ..._core.spec import Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import dense_fsmn_memory

Sizes = Mapping[str, int]


def _inputs(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
    C, W, depth = dims["C"], dims["W"], dims["depth"]
    inputs, draw = reference.first_input(depth), Draw(generator)
    return {
        "x": draw.normal(B, T, C),
        "weight": draw.normal(C, inputs, W) / W**0.5,
        "gain": draw.normal(depth, C),
        "shift": draw.normal(depth, C),
        "slope": draw.normal(depth, C) / 2,
    }


def _products(B: int, T: int, dims: Sizes, *_: Any) -> int:
    return B * T * dims["C"] * dims["W"] * reference.first_input(dims["depth"])


def _elements(B: int, T: int, dims: Sizes, *_: Any) -> int:
    """Elements of all o_i."""
    return B * T * dims["C"] * dims["depth"]


def _case(name: str, depth: int) -> Case:
    return Case(
        name=name,
        make=_inputs,
        # Two steps make +-1 of almost every channel, whose gradient is then eps / var of what was
        # subtracted for it: with an eps as small as models have, no digits would be left.
        options={"eps": 1.0},
        constants=frozenset({"weight", "gain", "shift", "slope"}),
        stateless=True,
        small={"C": 3, "W": 3, "depth": depth},
        odd={"C": 5, "W": 3, "depth": depth},
        extremes={
            "weight = 0": constant("weight", 0.0),
            "gain = 0": constant("gain", 0.0),
            "slope = 1": constant("slope", 1.0),
            "x * 1e4": scaled("x", 1e4),
        },
    )


SPEC = OpSpec(
    name="dense_fsmn_memory",
    op=dense_fsmn_memory,
    reference=reference.dense_fsmn_memory,
    step=None,
    cases=(_case("one layer", 1), _case("released", 2), _case("three layers", 3)),
    state_shape=lambda N, dims: (),
    tiles=(32,),
    launch=LAUNCH,
    # The common bounds hold for the numbers that tests draw. Worst of 40 draws on the CPU, small
    # sizes, T from 2 to 67: bfloat16 1.2 eps, float16 1.0, float32 29, float64 56, the last two for
    # single shifts and slopes whose gradients add up to almost nothing (the definition: 24).
    # The products, and for every o_i statistics, norm and PReLU.
    flops=lambda *size: 2 * _products(*size) + 10 * _elements(*size),
    backward_flops=lambda *size: 4 * _products(*size) + 20 * _elements(*size),
    # x and y; x, dy, dx and the a_i, here of the inputs' size.
    bytes=lambda B, T, dims, options, itemsize: itemsize * 2 * B * T * dims["C"],
    backward_bytes=lambda B, T, dims, options, itemsize: (
        itemsize * (3 * B * T * dims["C"] + _elements(B, T, dims))
    ),
)
