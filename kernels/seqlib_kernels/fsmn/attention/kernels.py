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
PIECES = 64  # of a sequence at most, which bounds the memory they take
BLOCK = 1024  # numbers of the memory that one program sums over pieces
LIN_Q, LIN_K = 1, 3  # among the heads


class _Plan:
    """What all launches of one call share: sizes, constants, grids."""

    def __init__(
        self, z: Tensor, qk: Tensor, freqs: Tensor, keep: Tensor | None, cu_seqlens: Tensor | None,
        G: int, causal: bool, per_group: bool, keep_scale: float,
    ) -> None:  # fmt: skip
        if z.dtype == torch.float64 and not interpreting():
            raise TypeError("z must not be float64 on a GPU: use float32, or backend='reference'")
        (batch, T, width), S = z.shape, qk.shape[2]
        N = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.row = pick(z)
        math = arithmetic(z.dtype, self.row)
        self.kept = math.kept
        self.T, self.N, self.S, self.E, self.G = T, N, S, width // 2, G
        self.boundaries = or_unread(cu_seqlens, z)
        self.keep = z if keep is None else keep.view(torch.uint8)
        tiles = dict(self.row.tiles)
        for name, size in {"BR": G, "BQ": G, "BE": self.E, "BS": S}.items():
            tiles[name] = min(tiles[name], _block(size))
        tiles["BK"] = tiles["BQ"] if tiles["BK"] < G else _block(G)
        tiles["COLUMNS"] = max(tiles["COLUMNS"], tiles["BE"])
        tiles["BW"] = _block(S)
        tiles["BH"] = min(64, max(16, 2048 // tiles["BW"]))
        self.tiles = tiles
        self.span = G if causal else max(SPAN, triton.next_power_of_2(triton.cdiv(T, PIECES)))
        self.pieces = (slots(batch, T, N, self.span), S, width)
        self.slots = slots(batch, T, N, G)
        self.constants: dict[str, Any] = {
            "S": S, "E": self.E, "G": G, "R": 2 * freqs.shape[0], **tiles,
            "SIZE": S * width, "BLOCK": BLOCK,
            "PACKED": cu_seqlens is not None, "CAUSAL": causal, "PER_GROUP": per_group,
            "KEEP": keep is not None, "KEEP_SCALE": keep_scale,
            "ACC": TL[state_dtype(z.dtype)], "DOT": TL[math.dot], "PRECISION": math.precision,
        }  # fmt: skip

    def frames(self, tile: str, *more: int) -> tuple[int, ...]:
        """A grid of blocks of frames in groups."""
        return (self.slots, triton.cdiv(min(self.G, self.T), self.tiles[tile]), *more)

    def blocks(self, size: int, tile: str) -> int:
        """How many tiles it takes."""
        return triton.cdiv(size, self.tiles[tile])

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **flags: Any) -> None:
        """Run a kernel with the constants that it names, unless its grid is empty."""
        if 0 in grid:
            return
        own = {n: x for n, x in self.constants.items() if n in kernel.arg_names}
        options = self.row.compile_options(kernel.__name__)
        kernel[grid](*arguments, **own, **flags, **options)

    def heads(self, qk: Tensor, gamma: Tensor, beta: Tensor, freqs: Tensor) -> Tensor:
        """The four rotated heads [B, T, 4, S]."""
        heads = alloc.empty((*qk.shape[:2], 4, self.S), gamma)
        given = (qk, gamma, beta, freqs, self.boundaries, heads)
        self.launch(write_heads, self.frames("BH"), *given, self.N, self.T)
        return heads

    def sums(self, heads: Tensor, head: int, x: Tensor, out: Tensor, reverse: bool) -> None:
        """Into `out`, the memories of a head's products with x or, reverse, their gradients."""
        causal = self.constants["CAUSAL"]
        pieces = out if causal else alloc.empty(self.pieces, out)
        sizes = (self.N, self.T, self.span)
        grid = (self.pieces[0], self.blocks(self.S, "BS"), self.blocks(2 * self.E, "BE"))
        self.launch(memory_pieces, grid, heads, x, self.boundaries, pieces, *sizes, HEAD=head)
        grid = (self.N, triton.cdiv(self.S * 2 * self.E, BLOCK))
        self.launch(join_pieces, grid, pieces, self.boundaries, out, *sizes, REVERSE=reverse)


def _block(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def forward(
    z: Tensor, qk: Tensor, gamma: Tensor, beta: Tensor, freqs: Tensor, keep: Tensor | None,
    cu_seqlens: Tensor | None, o: Tensor, memory: Tensor, *options: Any,
) -> None:  # fmt: skip
    """Outputs into o, memories into `memory`; see `op.py`."""
    plan = _Plan(z, qk, freqs, keep, cu_seqlens, *options)
    heads = plan.heads(qk, gamma, beta, freqs)
    plan.sums(heads, LIN_K, z, memory, False)
    given = (heads, z, memory, plan.keep, z, plan.boundaries, o, z, z)
    grid = plan.frames("BR", plan.blocks(plan.E, "COLUMNS"))
    plan.launch(attend, grid, *given, plan.N, plan.T, GRADIENT=False)


def backward(
    z: Tensor, qk: Tensor, gamma: Tensor, beta: Tensor, freqs: Tensor, keep: Tensor | None,
    cu_seqlens: Tensor | None, memory: Tensor, do: Tensor,
    dz: Tensor, dqk: Tensor, dgamma: Tensor, dbeta: Tensor, *options: Any,
) -> None:  # fmt: skip
    """Gradients into dz, dqk, dgamma, dbeta; A and P are made anew. See `op.py`."""
    plan = _Plan(z, qk, freqs, keep, cu_seqlens, *options)
    sizes, bounds = (plan.N, plan.T), plan.boundaries
    heads = plan.heads(qk, gamma, beta, freqs)
    da = alloc.empty(z.shape, z, plan.kept)
    columns = plan.frames("BR", plan.blocks(plan.E, "COLUMNS"))
    given = (heads, z, memory, plan.keep, do, bounds, do, da, dz)
    plan.launch(attend, columns, *given, *sizes, GRADIENT=True)

    dmemory = alloc.empty(memory.shape, memory)
    plan.sums(heads, LIN_Q, da, dmemory, True)
    given = (heads, da, dmemory, plan.keep, bounds, dz)
    plan.launch(z_gradients, columns, *given, *sizes)

    dx = alloc.empty((*z.shape[:2], plan.G), z, plan.kept)
    grid = plan.frames("BR", plan.blocks(plan.G, "BQ"))
    plan.launch(score_gradients, grid, heads, z, da, plan.keep, bounds, dx, *sizes)
    dheads = alloc.empty(heads.shape, heads)
    given = (heads, z, da, dx, memory, dmemory, bounds, dheads)
    plan.launch(head_gradients, plan.frames("BR", 4 * plan.blocks(plan.S, "BS")), *given, *sizes)

    grid = plan.frames("BH")
    parts = alloc.empty((*grid, 2, 4, plan.S), gamma)
    plan.launch(qk_gradients, grid, qk, gamma, freqs, dheads, bounds, dqk, parts, *sizes)
    torch.sum(parts[:, :, 0], (0, 1), out=dgamma)
    torch.sum(parts[:, :, 1], (0, 1), out=dbeta)
