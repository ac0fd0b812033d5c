# SPDX-License-Identifier: Apache-2.0
"""Chunks, tiles and warps of the MIMO model's Triton kernels; no Triton here."""

import torch
from torch import Tensor

from ..._core.chunks import slots
from ..._core.dtypes import state_dtype
from ..._core.launch import INTERPRETER, Launch, LaunchTable
from .arguments import Tensors

# BT tokens make a chunk, R chunks are joined at a time. Tiles hold BP states and BH channels, and
# products run over BK channels after one another. The width is H, but kernels loop over blocks:
# the last row serves any number. A sequence may be cut, bit for bit, after a multiple of R BT
# tokens. Which rows compile without spills was found by trying (tests/aot); none was timed.
LAUNCH = LaunchTable(
    (
        Launch(
            arch=INTERPRETER,
            itemsize=4,
            width=4,
            tiles={"BT": 4, "R": 4, "BP": 4, "BH": 4, "BK": 4},
        ),
        Launch(
            arch=INTERPRETER,
            itemsize=4,
            width=256,
            tiles={"BT": 16, "R": 4, "BP": 8, "BH": 16, "BK": 8},
        ),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=256,
            tiles={"BT": 64, "R": 8, "BP": 32, "BH": 128, "BK": 32},
            per_kernel={
                "chunk_outputs": {"num_warps": 8},
                "weight_gradients": {"BP": 16, "num_warps": 8},
                "parameter_gradients": {"BP": 16, "BH": 32},
            },
        ),
        Launch(
            arch="sm_90",
            itemsize=4,
            width=256,
            tiles={"BT": 64, "R": 8, "BP": 32, "BH": 128, "BK": 32},
            per_kernel={
                "chunk_outputs": {"num_warps": 8},
                "weight_gradients": {"BP": 16, "BH": 32, "BK": 16, "num_warps": 8},
                "parameter_gradients": {"BP": 16, "BH": 32},
            },
        ),
        Launch(
            arch="sm_100",
            itemsize=2,
            width=256,
            tiles={"BT": 64, "R": 8, "BP": 32, "BH": 128, "BK": 32},
            per_kernel={
                "chunk_outputs": {"BP": 16},
                "weight_gradients": {"BP": 16, "num_warps": 8},
                "parameter_gradients": {"BP": 16, "BH": 32},
            },
        ),
        Launch(
            arch="sm_100",
            itemsize=4,
            width=256,
            tiles={"BT": 64, "R": 8, "BP": 32, "BH": 128, "BK": 32},
            per_kernel={
                "chunk_outputs": {"num_warps": 8},
                "weight_gradients": {"BP": 16, "BH": 64, "BK": 16, "num_warps": 8},
                "parameter_gradients": {"BP": 16, "BH": 32},
            },
        ),
        Launch(
            arch="gfx942",
            itemsize=2,
            width=256,
            tiles={"BT": 64, "R": 8, "BP": 32, "BH": 128, "BK": 32},
            per_kernel={
                "chunk_outputs": {"num_warps": 8},
                "weight_gradients": {"BP": 16, "num_warps": 8},
                "parameter_gradients": {"BP": 16, "BH": 32},
            },
        ),
        Launch(
            arch="gfx942",
            itemsize=4,
            width=256,
            tiles={"BT": 64, "R": 8, "BP": 32, "BH": 128, "BK": 32},
            per_kernel={
                "chunk_outputs": {"num_warps": 8},
                "weight_gradients": {"BP": 16, "num_warps": 8},
                "parameter_gradients": {"BP": 16, "BH": 32},
            },
        ),
    ),
    default="sm_90",
)


def pick(u: Tensor) -> Launch:
    """The launch row for inputs u [B, T, H]."""
    return LAUNCH.pick(u, u.shape[2])


def states_shape(given: Tensors, BT: int) -> tuple[int, int, int]:
    """The shape [slots, 2, P] of what is kept per chunk."""
    batch, T, _ = given.u.shape
    return slots(batch, T, given.sequences, BT), 2, given.a.shape[0]


def saved_shapes(given: Tensors) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """The states kept for the backward pass, one per chunk."""
    return [(states_shape(given, pick(given.u).tiles["BT"]), state_dtype(given.u.dtype))]
