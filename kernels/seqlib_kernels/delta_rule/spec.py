# SPDX-License-Identifier: Apache-2.0
"""The delta rule as tests and benchmarks see it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator

from .._core.chunks import itemsize
from .._core.spec import TOL, Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import delta_rule
from .step import delta_rule_step

Sizes = Mapping[str, int]


def _inputs(n: int, decay: str | None = None, unit_keys: bool = True) -> Callable[..., Inputs]:
    """A maker of inputs with n rows per token: beta over (0, 2), decays over their whole range."""

    def make(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
        H, HV, K, V = (dims[name] for name in ("H", "HV", "K", "V"))

        draw = Draw(generator)
        k = draw.normal(B, n * T, H, K)
        inputs = {
            "q": draw.normal(B, T, H, K),
            "k": torch.nn.functional.normalize(k, dim=-1) if unit_keys else k,
            "v": draw.normal(B, n * T, HV, V),
            "beta": 2 * draw.uniform(B, n * T, HV),
        }
        if decay == "g":
            inputs["g"] = -2 * draw.uniform(B, T, HV)
        if decay == "alpha":  # one in eight exactly zero
            alpha = 2 * draw.uniform(B, T, HV) - 1
            inputs["alpha"] = torch.where(draw.uniform(B, T, HV) < 1 / 8, 0.0, alpha)
        return inputs

    return make


def _some_strong(inputs: Inputs) -> Inputs:
    """Every third decay is nothing at all, every third is one that leaves nothing."""
    g = inputs["g"].clone()
    g[:, ::3], g[:, 1::3] = 0.0, -200.0
    return {**inputs, "g": g}


def _same_key(inputs: Inputs) -> Inputs:
    """One key throughout, reflected every time: the hardest triangular system."""
    k = inputs["k"][:, :1].expand_as(inputs["k"])
    return {**inputs, "k": k.contiguous(), "beta": torch.full_like(inputs["beta"], 2.0)}


_BETA = {
    "beta = 0": constant("beta", 0.0),
    "beta = 2": constant("beta", 2.0),
    "one key": _same_key,
    "v * 1e4": scaled("v", 1e4),
}
_SIGNED = {f"alpha = {a}": constant("alpha", a) for a in (0.0, 1.0, -1.0)}
_GATED = {"g = 0": constant("g", 0.0), "g = -30": constant("g", -30.0), "mixed g": _some_strong}
_SIZES: dict[str, Any] = {
    "small": {"H": 1, "HV": 1, "K": 4, "V": 3},
    "odd": {"H": 3, "HV": 3, "K": 5, "V": 7},
}
_GROUPED: dict[str, Any] = {
    "small": {"H": 1, "HV": 2, "K": 4, "V": 3},
    "odd": {"H": 3, "HV": 6, "K": 5, "V": 7},
}
_ROWS = {"k": 2, "v": 2, "beta": 2}


def _updates(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    """State elements times the updates they get."""
    n = options.get("num_householder", 1)
    return B * T * n * dims["HV"] * dims["K"] * dims["V"]


def _numbers(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    """Elements of q, k, v and o."""
    n, H, HV = options.get("num_householder", 1), dims["H"], dims["HV"]
    return B * T * ((n + 1) * H * dims["K"] + (n + 1) * HV * dims["V"])


SPEC = OpSpec(
    name="delta_rule",
    op=delta_rule,
    reference=reference.delta_rule,
    step=delta_rule_step,
    cases=(
        Case(
            name="plain",
            make=_inputs(1),
            extremes=_BETA,
            # Undamped, every rounding error of a chunk stays, and sums of C terms cancel to one.
            # Worst of all results at T = 35 over six seeds: 10 in the loop over time, 41 in the CPU
            # kernels, 88, 154, 115 in the Triton kernels at C = 16, 32, 64.
            extreme_bounds={"one key": 256},
            **_SIZES,
        ),
        Case(name="gated", make=_inputs(1, "g"), extremes=_GATED, **_SIZES),
        Case(name="signed", make=_inputs(1, "alpha"), extremes=_SIGNED, **_SIZES),
        Case(
            name="product",
            make=_inputs(2, "g"),
            options={"num_householder": 2},
            rows_per_token=_ROWS,
            **_SIZES,
        ),
        Case(name="grouped", make=_inputs(1, "alpha"), **_GROUPED),
        Case(
            name="normalised",
            make=_inputs(1, "g", unit_keys=False),
            options={"normalize_qk": True, "scale": 1.0},
            **_SIZES,
        ),
    ),
    state_shape=lambda N, dims: (N, dims["HV"], dims["K"], dims["V"]),
    tiles=(16, 64),
    launch=LAUNCH,
    launch_itemsize=itemsize,
    refused_on_gpu=frozenset({torch.float64}),
    exact_cut={"cpu": 16, "triton": 64},
    spoils_chunks=frozenset({"triton"}),
    # Measured on CPUs, worst of all results: float32 16 eps at T = 35, 34 at T = 65 in one chunk;
    # bfloat16 3.6, on kernels whose products take bfloat16 operands; float16 2.2 at T = 131, which
    # the true gradient of g has too once it is rounded: one step's is far above the others.
    tolerance={**TOL, torch.float32: 64, torch.bfloat16: 5, torch.float16: 4},
    # Per update and state element one multiplication and addition each for S'k, the update and
    # S'q; backward the first two again and six for the gradients.
    flops=lambda *size: 6 * _updates(*size),
    backward_flops=lambda *size: 16 * _updates(*size),
    # q, k, v, o; then q, k, v, do and their gradients but that of do.
    bytes=lambda B, T, dims, options, itemsize: itemsize * _numbers(B, T, dims, options),
    backward_bytes=lambda B, T, dims, options, itemsize: (
        2 * itemsize * _numbers(B, T, dims, options)
    ),
)
