# SPDX-License-Identifier: Apache-2.0
"""Chunks, tiles and warps of the diagonal model's Triton kernels; no Triton here."""

import torch
from torch import Tensor

from ..._core.backend import interpreting
from ..._core.launch import INTERPRETER, Launch, LaunchTable

# BT tokens make a chunk; a program walks through R chunks of BH channels at a time, BM modes
# after one another. The width is M, but kernels loop over blocks of modes: the last row serves
# any number. A sequence may be cut, bit for bit, after a multiple of (R - 1) BT tokens. Which rows
# compile without spills was found by trying (tests/aot); none was timed.
LAUNCH = LaunchTable(
    (
        Launch(arch=INTERPRETER, itemsize=4, width=4, tiles={"BT": 4, "R": 4, "BH": 2, "BM": 4}),
        Launch(
            arch=INTERPRETER,
            itemsize=4,
            width=1 << 30,
            tiles={"BT": 16, "R": 4, "BH": 4, "BM": 8},
        ),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=1 << 30,
            tiles={"BT": 32, "R": 16, "BH": 8, "BM": 16},
            num_warps=16,
        ),
        Launch(
            arch="sm_90",
            itemsize=4,
            width=1 << 30,
            tiles={"BT": 32, "R": 16, "BH": 8, "BM": 16},
            num_warps=16,
        ),
        Launch(
            arch="gfx942",
            itemsize=2,
            width=1 << 30,
            tiles={"BT": 32, "R": 16, "BH": 8, "BM": 16},
            num_warps=8,
        ),
        Launch(
            arch="gfx942",
            itemsize=4,
            width=1 << 30,
            tiles={"BT": 32, "R": 16, "BH": 8, "BM": 16},
            num_warps=8,
        ),
    ),
    default="sm_90",
)


def pick(u: Tensor, modes: int) -> Launch:
    """The launch row for inputs u [B, T, H]."""
    return LAUNCH.pick(u, modes)


def piece_length(u: Tensor, modes: int) -> int:
    """How many tokens lie between two states that are kept for the backward pass."""
    return pick(u, modes).tiles["BT"]


def precision(dtype: torch.dtype, row: Launch) -> str:
    """Triton's `input_precision` of products for inputs of `dtype`.

    Tables and states are float32 whatever the inputs. Three TF32 products keep its bits; beside
    inputs of 16 bits one is enough. AMD's matrix units and the interpreter multiply float32.
    """
    amd = torch.version.hip is not None or row.arch.startswith("gfx")
    if interpreting() or amd or dtype == torch.float64:
        return "ieee"
    return "tf32x3" if dtype == torch.float32 else "tf32"
