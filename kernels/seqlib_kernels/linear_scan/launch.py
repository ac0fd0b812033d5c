# SPDX-License-Identifier: Apache-2.0
"""Tiles and warps of the linear scan's Triton kernels."""

from .._core.launch import INTERPRETER, Launch, LaunchTable

# BT rows of BD channels make a tile. Rows are chosen by the bytes of an element, both parts of a
# complex number counted, because the tile's registers are.
LAUNCH = LaunchTable(
    (
        Launch(arch=INTERPRETER, itemsize=4, width=16, tiles={"BT": 8, "BD": 4}),
        Launch(arch=INTERPRETER, itemsize=4, width=1 << 30, tiles={"BT": 16, "BD": 16}),
        Launch(arch="sm_90", itemsize=2, width=1 << 30, tiles={"BT": 32, "BD": 64}),
        Launch(arch="sm_90", itemsize=4, width=1 << 30, tiles={"BT": 32, "BD": 32}),
        Launch(arch="sm_90", itemsize=8, width=1 << 30, tiles={"BT": 16, "BD": 32}),
        Launch(arch="sm_90", itemsize=16, width=1 << 30, tiles={"BT": 16, "BD": 16}),
    ),
    default="sm_90",
)
