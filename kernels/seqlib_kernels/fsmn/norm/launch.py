# SPDX-License-Identifier: Apache-2.0
"""Tiles and warps of the Triton kernels that normalise sequences; no Triton here."""

from ..._core.launch import INTERPRETER, Launch, LaunchTable

_ANY = 1 << 30

# BT rows of BC channels make a tile. SPAN rows, a multiple of BT, are summed by one program before
# the parts of a sequence are merged. Which rows compile without spills was found by trying (see
# tests/aot); none was timed.
LAUNCH = LaunchTable(
    (
        Launch(arch=INTERPRETER, itemsize=4, width=_ANY, tiles={"BT": 16, "BC": 4, "SPAN": 32}),
        Launch(arch="sm_80", itemsize=2, width=_ANY, tiles={"BT": 32, "BC": 64, "SPAN": 256}),
        Launch(arch="sm_80", itemsize=4, width=_ANY, tiles={"BT": 32, "BC": 64, "SPAN": 256}),
        Launch(arch="sm_80", itemsize=8, width=_ANY, tiles={"BT": 16, "BC": 32, "SPAN": 256}),
        Launch(arch="gfx942", itemsize=2, width=_ANY, tiles={"BT": 32, "BC": 64, "SPAN": 256}),
        Launch(arch="gfx942", itemsize=4, width=_ANY, tiles={"BT": 32, "BC": 64, "SPAN": 256}),
        Launch(arch="gfx942", itemsize=8, width=_ANY, tiles={"BT": 32, "BC": 32, "SPAN": 256}),
    ),
    default="sm_80",
)
