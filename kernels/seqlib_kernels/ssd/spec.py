# SPDX-License-Identifier: Apache-2.0
"""The state-space dual as tests and benchmarks see it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator

from .._core.chunks import itemsize
from .._core.spec import TOL, Case, Draw, Inputs, OpSpec, constant
from . import reference
from .launch import LAUNCH
from .op import ssd
from .step import ssd_step

Sizes = Mapping[str, int]


def _inputs(decay: str) -> Callable[..., Inputs]:
    """A maker of inputs whose decays lie over their whole range."""

    def make(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
        H, G, P, N = (dims[name] for name in ("H", "G", "P", "N"))

        draw = Draw(generator)
        inputs = {
            "x": draw.normal(B, T, H, P),
            "B": draw.normal(B, T, G, N),
            "C": draw.normal(B, T, G, N),
        }
        if decay == "alpha":  # one in eight exactly zero
            alpha = 2 * draw.uniform(B, T, H) - 1
            inputs["alpha"] = torch.where(draw.uniform(B, T, H) < 1 / 8, 0.0, alpha)
            return inputs
        inputs["A"] = -0.5 - 2 * draw.uniform(H)
        if decay == "positive":
            inputs["dt"] = draw.uniform(B, T, H)
        else:
            inputs |= {"dt": draw.normal(B, T, H), "D": draw.normal(H), "dt_bias": draw.normal(H)}
        return inputs

    return make


def _every_third(name: str, value: float) -> Callable[[Inputs], Inputs]:
    def change(inputs: Inputs) -> Inputs:
        x = inputs[name].clone()
        x[:, ::3] = value
        return {**inputs, name: x}

    return change


def _updates(B: int, T: int, dims: Sizes) -> int:
    """State elements times the updates they get."""
    return B * T * dims["H"] * dims["P"] * dims["N"]


def _numbers(B: int, T: int, dims: Sizes, of_heads: int, of_groups: int) -> int:
    """Elements of so many tensors like x and like B."""
    return B * T * (of_heads * dims["H"] * dims["P"] + of_groups * dims["G"] * dims["N"])


_MAP: dict[str, Any] = {"constants": frozenset({"A", "D", "dt_bias"})}

SPEC = OpSpec(
    name="ssd",
    op=ssd,
    reference=reference.ssd,
    step=ssd_step,
    cases=(
        Case(
            name="positive",
            make=_inputs("positive"),
            small={"H": 1, "G": 1, "P": 3, "N": 4},
            odd={"H": 3, "G": 1, "P": 5, "N": 7},
            extremes={"dt = 0": constant("dt", 0.0), "dt = 300": _every_third("dt", 300.0)},
            **_MAP,
        ),
        Case(
            name="negative",
            make=_inputs("negative"),
            options={"dt_softplus": True, "negative_eigenvalues": True},
            small={"H": 2, "G": 1, "P": 3, "N": 4},
            odd={"H": 4, "G": 2, "P": 5, "N": 7},
            extremes={
                "dt = -inf": _every_third("dt", float("-inf")),
                "dt = 300": _every_third("dt", 300.0),
            },
            **_MAP,
        ),
        Case(
            name="alpha",
            make=_inputs("alpha"),
            options={"dt": None, "A": None},
            small={"H": 1, "G": 1, "P": 3, "N": 4},
            odd={"H": 3, "G": 3, "P": 5, "N": 7},
            extremes={f"alpha = {a}": constant("alpha", a) for a in (0.0, 1.0, -1.0)},
        ),
    ),
    state_shape=lambda Nseq, dims: (Nseq, dims["H"], dims["P"], dims["N"]),
    tiles=(16, 64),
    launch=LAUNCH,
    launch_itemsize=itemsize,
    refused_on_gpu=frozenset({torch.float64}),
    exact_cut={"cpu": 16, "triton": 64},
    spoils_chunks=frozenset({"triton"}),
    # Measured on CPUs, T = 70, worst of all results: float32 9.3 eps, float16 1.4. bfloat16 1.7,
    # and 2.7 on kernels whose products take bfloat16 operands.
    tolerance={**TOL, torch.bfloat16: 4},
    # One multiplication and addition per state element and token to write, and one to read;
    # backward the former again and four for the gradients.
    flops=lambda B, T, dims, options: 4 * _updates(B, T, dims),
    backward_flops=lambda B, T, dims, options: 10 * _updates(B, T, dims),
    # x, y, B, C; then x, dy, dx and B, C and their gradients.
    bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 2, 2),
    backward_bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, 3, 4),
)
