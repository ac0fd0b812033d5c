# SPDX-License-Identifier: Apache-2.0
"""Tiles and warps of the joint attention's Triton kernels; no Triton here."""

from torch import Tensor

from ..._core.chunks import itemsize
from ..._core.launch import INTERPRETER, Launch, LaunchTable

# BR frames by BE columns make a tile of outputs, summed over BS channels of the keys and over BQ
# frames at a time, or over the whole group where it has no more than BK; COLUMNS of one half of z
# belong to a program. Which rows compile without spills was found by trying (tests/aot); none was
# timed.
LAUNCH = LaunchTable(
    (
        Launch(
            arch=INTERPRETER,
            itemsize=4,
            width=1024,
            tiles={"BR": 16, "BK": 16, "BQ": 16, "BE": 16, "BS": 16, "COLUMNS": 32},
        ),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=1024,
            tiles={"BR": 64, "BK": 256, "BQ": 64, "BE": 64, "BS": 32, "COLUMNS": 256},
            num_warps=8,
        ),
        Launch(
            arch="sm_90",
            itemsize=4,
            width=1024,
            tiles={"BR": 32, "BK": 32, "BQ": 32, "BE": 32, "BS": 32, "COLUMNS": 64},
            per_kernel={"z_gradients": {"num_warps": 8}},
        ),
        Launch(
            arch="sm_80",
            itemsize=2,
            width=1024,
            tiles={"BR": 64, "BK": 256, "BQ": 64, "BE": 32, "BS": 32, "COLUMNS": 256},
            num_warps=8,
        ),
        Launch(
            arch="sm_80",
            itemsize=4,
            width=1024,
            tiles={"BR": 32, "BK": 32, "BQ": 32, "BE": 32, "BS": 32, "COLUMNS": 64},
            per_kernel={"attend": {"num_warps": 8}},
        ),
        Launch(
            arch="gfx942",
            itemsize=2,
            width=1024,
            tiles={"BR": 32, "BK": 32, "BQ": 32, "BE": 32, "BS": 32, "COLUMNS": 64},
            num_stages=1,
            per_kernel={"attend": {"num_warps": 8}},
        ),
        Launch(
            arch="gfx942",
            itemsize=4,
            width=1024,
            tiles={"BR": 32, "BK": 32, "BQ": 32, "BE": 32, "BS": 32, "COLUMNS": 64},
            num_stages=1,
        ),
    ),
    default="sm_90",
)


def pick(z: Tensor) -> Launch:
    """The launch row for z [B, T, 2E]."""
    return LAUNCH.pick(z, z.shape[2] // 2, itemsize(z.dtype))
