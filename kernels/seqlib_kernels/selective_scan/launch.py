# SPDX-License-Identifier: Apache-2.0
"""Tiles and warps of the selective scan's Triton kernels; no Triton here."""

from torch import Tensor

from .._core.launch import INTERPRETER, Launch, LaunchTable

# BT steps of BD channels make a tile, which the kernels walk through once per state index.
LAUNCH = LaunchTable(
    (
        Launch(arch=INTERPRETER, itemsize=4, width=4, tiles={"BT": 8, "BD": 4}),
        Launch(arch=INTERPRETER, itemsize=4, width=1 << 30, tiles={"BT": 16, "BD": 8}),
        Launch(arch="sm_90", itemsize=2, width=1 << 30, tiles={"BT": 32, "BD": 32}),
        Launch(arch="sm_90", itemsize=4, width=1 << 30, tiles={"BT": 32, "BD": 32}),
        Launch(arch="sm_90", itemsize=8, width=1 << 30, tiles={"BT": 16, "BD": 16}),
    ),
    default="sm_90",
)


def row(u: Tensor, groups: int) -> Launch:
    """The row that serves `u`: a program's channels read one group of B and C."""
    return LAUNCH.pick(u, u.shape[2] // groups)
