# SPDX-License-Identifier: Apache-2.0
"""Chunks, tiles and warps of the diagonal model's Triton kernels; no Triton here."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..._core.backend import interpreting
from ..._core.launch import INTERPRETER, Launch, LaunchTable, multiprocessors

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
            tiles={"BT": 32, "R": 16, "BH": 4, "BM": 16},
            num_warps=8,
            per_kernel={"table_gradients": {"num_warps": 4}},
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


def precision(dtype: torch.dtype, row: Launch) -> tuple[str, str]:
    """Triton's `input_precision` of the walk and of the gradients of tables, by the inputs' dtype.

    Tables and states are float32 whatever the inputs. Three TF32 products keep its bits; one is
    enough beside bfloat16, and for sums over all tokens beside float16. AMD's matrix units and
    the interpreter multiply float32.
    """
    amd = torch.version.hip is not None or row.arch.startswith("gfx")
    if interpreting() or amd or dtype == torch.float64:
        return "ieee", "ieee"
    return (
        "tf32" if dtype == torch.bfloat16 else "tf32x3",
        "tf32x3" if dtype == torch.float32 else "tf32",
    )


class Split(NamedTuple):
    """When sequences are split into segments that programs walk through side by side.

    Attributes:
        segments: a split gives the average sequence this many segments or more, because walks
            before them, without outputs, have to find the states between them.
        groups: a segment has this many groups of R - 1 chunks or more.
    """

    segments: int
    groups: int


SPLIT = Split(segments=3, groups=2)  # not yet timed


def segment_groups(u: Tensor, modes: int, sequences: int) -> int:
    """Groups of chunks per segment, or 0 where sequences stay whole: from shapes and the device.

    Sequences are split where programs, one for each of them and block of channels, leave most of
    the device idle; then into as many segments as fill it once.
    """
    processors = multiprocessors(u.device)
    (B, T, H), tiles = u.shape, pick(u, modes).tiles
    if processors == 0 or sequences * H == 0:
        return 0
    tokens = (tiles["R"] - 1) * tiles["BT"]
    groups = -(-(B * T // sequences) // tokens)  # of the average sequence
    segments = min(processors // (sequences * -(-H // tiles["BH"])), groups // SPLIT.groups)
    return -(-groups // segments) if segments >= SPLIT.segments else 0
