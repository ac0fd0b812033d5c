# SPDX-License-Identifier: Apache-2.0
"""The FSMN memory as tests and benchmarks see it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Generator, Tensor

from ..._core.spec import TOL, Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import fsmn_memory
from .step import fsmn_memory_step

Sizes = Mapping[str, int]


def _inputs(*, prologue: bool) -> Callable[..., Inputs]:
    """A maker of inputs: those of a projection behind a norm, or taps alone."""

    def make(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
        C, J, W = dims["C"], dims["J"], dims["W"]
        draw = Draw(generator)
        weight = draw.normal(C, J, W, 1) / (J * W) ** 0.5
        inputs = {"x": draw.normal(B, T, J * C), "weight": weight}
        if prologue:
            inputs |= {"bias": draw.normal(J * C), "scale": 0.5 + draw.uniform(B, T)}
        return inputs

    return make


def _step(*, causal: bool, **arguments: Any) -> tuple[Tensor, Tensor]:
    return fsmn_memory_step(**arguments)


_EXTREMES = {"weight = 0": constant("weight", 0.0), "x * 1e4": scaled("x", 1e4)}
_PROLOGUE = {
    **_EXTREMES,
    "scale = 0": constant("scale", 0.0),
    "bias - 200": lambda inputs: {**inputs, "bias": inputs["bias"] - 200},
}
_DILATION = 2  # of every causal case, so that the state's shape follows from sizes alone


def _sizes(J: int = 1, W: int = 7) -> dict[str, Any]:
    return {
        "small": {"C": 3, "J": J, "W": W},
        "odd": {"C": 5, "J": J, "W": W + 2},
        "constants": frozenset({"weight", "bias"}),
    }


def _products(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    return B * T * dims["C"] * dims["J"] * dims["W"]


def _elements(B: int, T: int, dims: Sizes) -> int:
    """Elements of x and y."""
    return B * T * dims["C"] * (dims["J"] + 1)


_SILU = {"activation": "silu"}
_CAUSAL = {"causal": True, "dilation": _DILATION}

SPEC = OpSpec(
    name="fsmn_memory",
    op=fsmn_memory,
    reference=reference.fsmn_memory,
    step=_step,
    cases=(
        Case(
            name="both sides",
            make=_inputs(prologue=False),
            options={"dilation": 3},
            stateless=True,
            extremes=_EXTREMES,
            **_sizes(),
        ),
        Case(
            name="projection",
            make=_inputs(prologue=True),
            options=_SILU,
            stateless=True,
            extremes=_PROLOGUE,
            **_sizes(),
        ),
        Case(
            name="grouped",
            make=_inputs(prologue=False),
            options={"residual": False, "dilation": 2},
            stateless=True,
            extremes=_EXTREMES,
            **_sizes(J=2),
        ),
        Case(
            name="causal",
            make=_inputs(prologue=True),
            options=_SILU | _CAUSAL,
            extremes=_PROLOGUE,
            **_sizes(W=4),
        ),
        Case(
            name="causal, grouped",
            make=_inputs(prologue=False),
            options={"residual": False, **_CAUSAL},
            extremes=_EXTREMES,
            **_sizes(J=2, W=4),
        ),
    ),
    state_shape=lambda N, dims: (N, _DILATION * (dims["W"] - 1), dims["J"] * dims["C"]),
    tiles=(32,),
    launch=LAUNCH,
    exact_cut={"cpu": 1, "triton": 1},
    tolerance=TOL,
    # The activation counted as four operations.
    flops=lambda *size: 2 * _products(*size) + 4 * _elements(*size[:3]),
    backward_flops=lambda *size: 4 * _products(*size) + 8 * _elements(*size[:3]),
    bytes=lambda B, T, dims, options, itemsize: itemsize * _elements(B, T, dims),
    # x, dy, dx
    backward_bytes=lambda B, T, dims, options, itemsize: (
        itemsize * (_elements(B, T, dims) + B * T * dims["C"] * dims["J"])
    ),
)
