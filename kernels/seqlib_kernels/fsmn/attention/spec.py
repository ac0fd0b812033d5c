# SPDX-License-Identifier: Apache-2.0
"""Joint attention as tests and benchmarks see it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator

from ..._core.chunks import itemsize
from ..._core.spec import TOL, Case, Draw, Inputs, OpSpec, constant, scaled
from . import reference
from .launch import LAUNCH
from .op import joint_attention

Sizes = Mapping[str, int]


def _inputs(B: int, T: int, dims: Sizes, generator: Generator) -> Inputs:
    E, S = dims["E"], dims["S"]
    draw = Draw(generator)
    return {
        "z": draw.normal(B, T, 2 * E),
        "qk": draw.normal(B, T, S),
        # P of about 1: what is large enters an exponent, with its error
        "gamma": draw.normal(4, S) / 2,
        "beta": draw.normal(4, S) / 2,
    }


def _options(group_size: int, frequencies: int, **more: Any) -> dict[str, Any]:
    freqs = 10000 ** (-torch.arange(frequencies, dtype=torch.float32) / frequencies)
    return {"freqs": freqs, "group_size": group_size, **more}


def _products(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> tuple[int, int]:
    """Operations of one product of all pairs within groups with S, and of one with 2E."""
    pairs = 2 * B * T * min(T, options["group_size"])
    return pairs * dims["S"], pairs * 2 * dims["E"]


def _memory(B: int, T: int, dims: Sizes) -> int:
    """Operations of one product with, or into, the memory."""
    return 4 * B * T * dims["E"] * dims["S"]


def _forward(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    of_keys, of_values = _products(B, T, dims, options)
    return of_keys + of_values + 2 * _memory(B, T, dims)


def _backward(B: int, T: int, dims: Sizes, options: Mapping[str, Any]) -> int:
    of_keys, of_values = _products(B, T, dims, options)
    return 3 * of_keys + 3 * of_values + 5 * _memory(B, T, dims)


_SMALL, _ODD = {"E": 3, "S": 6}, {"E": 5, "S": 7}
_MAP: dict[str, Any] = {
    "make": _inputs,
    "constants": frozenset({"gamma", "beta"}),
    "stateless": True,
    "extremes": {
        "gamma = 0": constant("gamma", 0.0),
        "gamma x 1e-6": scaled("gamma", 1e-6),
        "z x 1e4": scaled("z", 1e4),
        "qk x 1e2": scaled("qk", 1e2),
    },
}

SPEC = OpSpec(
    name="joint_attention",
    op=joint_attention,
    reference=reference.joint_attention,
    step=None,
    cases=(
        Case(name="local", small=_SMALL, odd=_ODD, options=_options(4, 2), **_MAP),
        Case(name="causal", small=_SMALL, odd=_ODD, options=_options(4, 2, causal=True), **_MAP),
        Case(
            name="causal by group",
            small=_SMALL,
            odd=_ODD,
            options=_options(4, 2, causal=True, normalize="group"),
            **_MAP,
        ),
        Case(
            name="released",
            small={"E": 2, "S": 32},
            odd={"E": 5, "S": 37},
            options=_options(256, 16),
            **_MAP,
        ),
    ),
    state_shape=lambda N, dims: (),
    tiles=(4,),
    launch=LAUNCH,
    launch_itemsize=itemsize,
    refused_on_gpu=frozenset({torch.float64}),
    # Measured on CPUs, T up to 70, 24 seeds, worst of all results: float64 26 eps, float32 28,
    # bfloat16 2.6, float16 3.4; of the definition in float32 22, in 16 bits the same.
    tolerance={**TOL, torch.float32: 32, torch.bfloat16: 4, torch.float16: 4},
    flops=_forward,
    backward_flops=_backward,
    # z, qk, o; then z, qk, their gradients and that of o. The memory is small beside them.
    bytes=lambda B, T, dims, options, itemsize: itemsize * B * T * (3 * dims["E"] + dims["S"]),
    backward_bytes=lambda B, T, dims, options, itemsize: (
        itemsize * B * T * (5 * dims["E"] + 2 * dims["S"])
    ),
)
