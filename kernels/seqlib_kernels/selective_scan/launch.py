# SPDX-License-Identifier: Apache-2.0
"""Tiles and warps of the selective scan's Triton kernels; no Triton here."""

from torch import Tensor

from .._core.launch import INTERPRETER, Launch, LaunchTable

_ANY = 1 << 30

# BT steps of BD channels make a tile, which the kernels walk through once per state index. Which
# rows compile without spills was found by trying with Triton 3.9 (tests/aot; 3.6 spills up to 32
# bytes in some of them); none was timed. float64 has no row on gfx942: there its backward kernel
# parks 14 scalars in vector registers.
LAUNCH = LaunchTable(
    (
        Launch(arch=INTERPRETER, itemsize=4, width=4, tiles={"BT": 8, "BD": 4}),
        Launch(arch=INTERPRETER, itemsize=4, width=_ANY, tiles={"BT": 16, "BD": 8}),
        Launch(arch="sm_80", itemsize=2, width=_ANY, tiles={"BT": 16, "BD": 32}, num_warps=8),
        Launch(arch="sm_80", itemsize=4, width=_ANY, tiles={"BT": 16, "BD": 16}),
        Launch(arch="sm_80", itemsize=8, width=_ANY, tiles={"BT": 16, "BD": 16}),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=_ANY,
            tiles={"BT": 16, "BD": 32},
            per_kernel={"scan": {"num_warps": 8}},
        ),
        Launch(arch="sm_90", itemsize=4, width=_ANY, tiles={"BT": 16, "BD": 32}),
        Launch(arch="sm_90", itemsize=8, width=_ANY, tiles={"BT": 16, "BD": 32}, num_warps=8),
        Launch(arch="gfx942", itemsize=2, width=_ANY, tiles={"BT": 16, "BD": 32}, num_warps=8),
        Launch(arch="gfx942", itemsize=4, width=_ANY, tiles={"BT": 16, "BD": 32}, num_warps=8),
    ),
    default="sm_90",
)


def piece_length(u: Tensor) -> int:
    """How many steps lie between two states that are kept for the backward pass."""
    return LAUNCH.pick(u, u.shape[2]).tiles["BT"]
