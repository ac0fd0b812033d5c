# SPDX-License-Identifier: Apache-2.0
"""Launchers of the ssd family's Triton kernels: two launches forward, three backward."""
# pyright: reportCallIssue=false, reportIndexIssue=false

from typing import Any

import torch
import triton
from torch import Tensor

from .._core import alloc
from .._core.backend import interpreting
from .._core.chunks import arithmetic, or_unread, slots
from .._core.kernels_chunks import TL
from .arguments import Tensors
from .kernels_bwd import group_gradients, write_gradients
from .kernels_fwd import both_sweeps, chunk_outputs, forward_sweep
from .launch import pick


class _Plan:
    """What all launches of one call share: sizes, constants, grids."""

    def __init__(self, given: Tensors) -> None:
        x, B = given.x, given.B
        batch, T, H, P = x.shape
        G, N = B.shape[2:]
        if x.dtype == torch.float64 and not interpreting():
            raise TypeError("x must not be float64 on a GPU: use float32, or backend='reference'")
        self.row = pick(B)
        math = arithmetic(x.dtype, self.row)
        tiles = dict(self.row.tiles)
        tiles["BP"] = min(tiles["BP"], max(16, triton.next_power_of_2(P)))
        tiles["BN"] = min(tiles["BN"], max(16, triton.next_power_of_2(N)))
        self.kept = math.kept
        self.sizes = (given.sequences, T)
        self.shared: dict[str, Any] = {
            "H": H, "G": G, "P": P, "N": N, **tiles,
            "PACKED": given.cu_seqlens is not None, "DELTA": given.delta is not None,
            "ACC": TL[given.a.dtype], "DOT": TL[math.dot], "PRECISION": math.precision,
        }  # fmt: skip
        self.by_chunk = (slots(batch, T, given.sequences, tiles["C"]), H)
        self.by_state = (
            given.sequences * H,
            triton.cdiv(P, tiles["BP"]),
            triton.cdiv(N, tiles["BN"]),
        )
        self.states = (*self.by_chunk, N, P)

    def options(self, kernel: Any, **flags: bool) -> dict[str, Any]:
        """Constants and compiler options of one kernel."""
        return {**self.shared, **flags, **self.row.compile_options(kernel.__name__)}


def forward(given: Tensors, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs and final states; nothing is kept for the backward pass. See `op.py`."""
    plan = _Plan(given)
    x, B, C, a, delta, D, h0, cu_seqlens = given
    delta_, skip, boundaries = (or_unread(z, a) for z in (delta, D, cu_seqlens))
    y, hT = alloc.empty(x.shape, x), alloc.empty(given.state_shape, a)
    states = alloc.empty(plan.states, x, plan.kept)
    forward_sweep[plan.by_state](
        x, B, a, delta_, or_unread(h0, hT), boundaries, states, hT,
        *plan.sizes, **plan.options(forward_sweep, INITIAL=h0 is not None),
    )  # fmt: skip
    if plan.by_chunk[0] > 0:
        chunk_outputs[plan.by_chunk](
            x, B, C, a, delta_, skip, states, boundaries, y,
            *plan.sizes, **plan.options(chunk_outputs, SKIP=D is not None),
        )  # fmt: skip
    return y, hT, []


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, saved: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, B, C, a, delta (or None), D (or None) and h0; see `op.py`."""
    plan = _Plan(given)
    x, B, C, a, delta, D, h0, cu_seqlens = given
    delta_, skip, boundaries = (or_unread(z, a) for z in (delta, D, cu_seqlens))
    states, dstates = (alloc.empty(plan.states, x, plan.kept) for _ in range(2))
    dx, da, dh0 = (alloc.empty(z.shape, z) for z in (x, a, dhT))
    ddelta = None if delta is None else alloc.empty(a.shape, a)
    dskip = None if D is None else alloc.empty(plan.by_chunk, a)
    H, G = x.shape[2], B.shape[2]
    # Heads of a group write their parts apart, and the parts are added in order.
    dB, dC = (
        alloc.empty((*z.shape[:2], H, z.shape[3]), z, z.dtype if H == G else a.dtype)
        for z in (B, C)
    )
    both_sweeps[(2 * plan.by_state[0], *plan.by_state[1:])](
        x, B, C, a, delta_, or_unread(h0, dh0), dy, dhT, boundaries, states, dstates, dh0,
        *plan.sizes, **plan.options(both_sweeps, INITIAL=h0 is not None),
    )  # fmt: skip
    if plan.by_chunk[0] > 0:
        write_gradients[plan.by_chunk](
            x, B, C, a, delta_, skip, dy, dstates, boundaries,
            dx, da, or_unread(ddelta, da), or_unread(dskip, da),
            *plan.sizes, **plan.options(write_gradients, SKIP=D is not None),
        )  # fmt: skip
        group_gradients[plan.by_chunk](
            x, B, C, a, delta_, dy, states, dstates, boundaries, dB, dC, da,
            *plan.sizes, **plan.options(group_gradients),
        )  # fmt: skip
    if H != G:
        dB, dC = (z.unflatten(2, (G, H // G)).sum(3).to(x.dtype) for z in (dB, dC))
    return dx, dB, dC, da, ddelta, None if dskip is None else dskip.sum(0), dh0
