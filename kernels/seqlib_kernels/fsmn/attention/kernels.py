# SPDX-License-Identifier: Apache-2.0
"""Launchers of the joint attention's Triton kernels: four launches forward, eight backward."""
# pyright: reportCallIssue=false, reportIndexIssue=false

from typing import Any

import torch
import triton
from torch import Tensor

from ..._core import alloc
from ..._core.backend import interpreting
from ..._core.chunks import arithmetic, or_unread, slots
from ..._core.dtypes import state_dtype
from ..._core.kernels_chunks import TL
from .kernels_heads import qk_gradients, write_heads
from .kernels_joint import attend, head_gradients, score_gradients, z_gradients
from .kernels_memory import join_pieces, memory_pieces
from .launch import pick

SPAN = 512  # frames of a piece of a sum over a sequence
PIECES = 64  # of a sequence at most, so that they take little memory beside z
BLOCK = 1024  # numbers of the memory that one program sums over pieces


class _Plan:
    """What all launches of one call share: sizes, constants, grids."""

    def __init__(
        self,
        z: Tensor,
        qk: Tensor,
        freqs: Tensor,
        keep: Tensor | None,
        cu_seqlens: Tensor | None,
        group_size: int,
        causal: bool,
        per_group: bool,
        keep_scale: float,
    ) -> None:
        if z.dtype == torch.float64 and not interpreting():
            raise TypeError("z must not be float64 on a GPU: use float32, or backend='reference'")
        batch, T, E = z.shape[0], z.shape[1], z.shape[2] // 2
        S, G = qk.shape[2], group_size
        N = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.row = pick(z)
        math = arithmetic(z.dtype, self.row)
        self.acc, self.kept = state_dtype(z.dtype), math.kept
        tiles = dict(self.row.tiles)
        for name, size in {"BR": G, "BK": G, "BQ": G, "BE": E, "BS": S}.items():
            tiles[name] = min(tiles[name], max(16, triton.next_power_of_2(size)))
        tiles["COLUMNS"] = max(tiles["COLUMNS"], tiles["BE"])
        self.boundaries = or_unread(cu_seqlens, z)
        self.keep = z if keep is None else keep.view(torch.uint8)
        self.sizes = (N, T)
        self.S, self.E, self.N = S, E, N
        self.tiles = tiles
        self.slots = slots(batch, T, N, G)
        self.span = G if causal else max(SPAN, triton.next_power_of_2(triton.cdiv(T, PIECES)))
        self.pieces = slots(batch, T, N, self.span)
        self.causal = causal
        self.blocks = triton.cdiv(min(G, T), tiles["BR"])
        width = max(16, triton.next_power_of_2(S))
        self.heads_block = max(16, min(64, 4096 // width))
        packed = {"PACKED": cu_seqlens is not None, "ACC": TL[self.acc]}
        dots = {"DOT": TL[math.dot], "PRECISION": math.precision}
        self.of_heads = {
            "S": S, "R": 2 * freqs.shape[0], "G": G, "BH": self.heads_block, "BW": width, **packed,
        }  # fmt: skip
        own = {name: tiles[name] for name in ("BQ", "BE", "BS")}
        self.of_pieces = {"S": S, "E": E, **own, **packed, **dots}
        self.of_join = {
            "SIZE": S * 2 * E, "G": G, "BLOCK": BLOCK, "CAUSAL": causal, "PER_GROUP": per_group,
            **packed,
        }  # fmt: skip
        self.of_group = {
            "S": S, "E": E, "G": G, "BR": tiles["BR"], "BE": tiles["BE"], "BS": tiles["BS"],
            "CAUSAL": causal, **packed, **dots,
        }  # fmt: skip
        self.of_keep = {"KEEP": keep is not None, "KEEP_SCALE": float(keep_scale)}
        self.of_columns = {"BK": tiles["BK"], "COLUMNS": tiles["COLUMNS"], **self.of_keep}
        self.of_rows = {"BQ": tiles["BQ"]}

    def by_frames(self, block: int, *more: int) -> tuple[int, ...]:
        """A grid of blocks of frames in groups."""
        G, T = self.of_heads["G"], self.sizes[1]
        return (self.slots, triton.cdiv(min(G, T), block), *more)

    def options(self, kernel: Any) -> dict[str, Any]:
        """Compiler options of one kernel."""
        return self.row.compile_options(kernel.__name__)
