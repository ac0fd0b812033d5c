# SPDX-License-Identifier: Apache-2.0
"""Chunks, tiles and warps of the ssd family's Triton kernels; no Triton here."""

import torch
from torch import Tensor

from .._core.chunks import itemsize
from .._core.launch import INTERPRETER, Launch, LaunchTable
from .arguments import Tensors

# C tokens make a chunk; tiles of the state are [BP, BN]. The width is N, but kernels loop over
# blocks of P and N: the last row serves any size. Which rows compile without spills was found by
# trying (tests/aot); none was timed.
LAUNCH = LaunchTable(
    (
        Launch(arch=INTERPRETER, itemsize=4, width=8, tiles={"C": 16, "BP": 16, "BN": 16}),
        Launch(arch=INTERPRETER, itemsize=4, width=256, tiles={"C": 64, "BP": 32, "BN": 64}),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=256,
            tiles={"C": 64, "BP": 64, "BN": 32},
            per_kernel={"group_gradients": {"num_warps": 8}},
        ),
        Launch(arch="sm_90", itemsize=4, width=256, tiles={"C": 32, "BP": 32, "BN": 16}),
        Launch(arch="sm_80", itemsize=2, width=256, tiles={"C": 64, "BP": 64, "BN": 32}),
        Launch(arch="sm_80", itemsize=4, width=256, tiles={"C": 32, "BP": 32, "BN": 16}),
        Launch(arch="gfx942", itemsize=2, width=256, tiles={"C": 32, "BP": 32, "BN": 32}),
        Launch(arch="gfx942", itemsize=4, width=256, tiles={"C": 16, "BP": 32, "BN": 32}),
    ),
    default="sm_90",
)


def pick(B: Tensor) -> Launch:
    """The launch row for B [B, T, G, N]."""
    return LAUNCH.pick(B, B.shape[3], itemsize(B.dtype))


def saved_shapes(given: Tensors) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Nothing is kept for the backward pass but the inputs."""
    return []
