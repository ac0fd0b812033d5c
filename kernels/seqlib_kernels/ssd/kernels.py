# SPDX-License-Identifier: Apache-2.0
"""Launchers of the ssd family's Triton kernels: two launches forward, three backward."""
# pyright: reportCallIssue=false, reportIndexIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core import alloc
from .._core.backend import interpreting
from .._core.chunks import arithmetic, slots
from .kernels_bwd import group_gradients, write_gradients
from .kernels_fwd import both_sweeps, chunk_outputs, forward_sweep
from .launch import pick

_TL = {torch.float64: tl.float64, torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


class _Plan:
    """What all launches of one call share: sizes, constants, grids."""

    def __init__(
        self,
        x: Tensor,
        B: Tensor,
        a: Tensor,
        delta: Tensor | None,
        D: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> None:
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
        self.sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.sizes = (self.sequences, T)
        self.shared: dict[str, Any] = {
            "H": H, "G": G, "P": P, "N": N, **tiles,
            "PACKED": cu_seqlens is not None, "DELTA": delta is not None,
            "ACC": _TL[a.dtype], "DOT": _TL[math.dot], "PRECISION": math.precision,
        }  # fmt: skip
        self.skip = {"SKIP": D is not None}
        self.by_chunk = (slots(batch, T, self.sequences, tiles["C"]), H)
        self.by_state = (
            self.sequences * H,
            triton.cdiv(P, tiles["BP"]),
            triton.cdiv(N, tiles["BN"]),
        )
        self.states = (*self.by_chunk, N, P)

    def options(self, kernel: Any) -> dict[str, Any]:
        return {**self.row.compile_options(kernel.__name__), "enable_fp_fusion": True}


def ssd_fwd(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    a: Tensor,
    delta: Tensor | None,
    D: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs and final states; nothing is kept for the backward pass. See `op.py`."""
    plan = _Plan(x, B, a, delta, D, cu_seqlens)
    delta_, skip, boundaries = _or(delta, a), _or(D, a), _or(cu_seqlens, a)
    y = alloc.empty(x.shape, x)
    hT = alloc.empty((plan.sequences, *x.shape[2:], B.shape[3]), a)
    states = alloc.empty(plan.states, x, plan.kept)
    forward_sweep[plan.by_state](
        x, B, a, delta_, _or(h0, hT), boundaries, states, hT,
        *plan.sizes, **plan.shared, INITIAL=h0 is not None, **plan.options(forward_sweep),
    )  # fmt: skip
    if plan.by_chunk[0] > 0:
        chunk_outputs[plan.by_chunk](
            x, B, C, a, delta_, skip, states, boundaries, y,
            *plan.sizes, **plan.shared, **plan.skip, **plan.options(chunk_outputs),
        )  # fmt: skip
    return y, hT, []


def ssd_bwd(
    dy: Tensor,
    dhT: Tensor,
    x: Tensor,
    B: Tensor,
    C: Tensor,
    a: Tensor,
    delta: Tensor | None,
    D: Tensor | None,
    h0: Tensor | None,
    saved: list[Tensor],
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients of x, B, C, a, delta (or None), D (or None) and h0; see `op.py`."""
    plan = _Plan(x, B, a, delta, D, cu_seqlens)
    delta_, skip, boundaries = _or(delta, a), _or(D, a), _or(cu_seqlens, a)
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
        x, B, C, a, delta_, _or(h0, dh0), dy, dhT, boundaries, states, dstates, dh0,
        *plan.sizes, **plan.shared, INITIAL=h0 is not None, **plan.options(both_sweeps),
    )  # fmt: skip
    if plan.by_chunk[0] > 0:
        write_gradients[plan.by_chunk](
            x, B, C, a, delta_, skip, dy, dstates, boundaries,
            dx, da, _or(ddelta, da), _or(dskip, da),
            *plan.sizes, **plan.shared, **plan.skip, **plan.options(write_gradients),
        )  # fmt: skip
        group_gradients[plan.by_chunk](
            x, B, C, a, delta_, dy, states, dstates, boundaries, dB, dC, da,
            *plan.sizes, **plan.shared, **plan.options(group_gradients),
        )  # fmt: skip
    if H != G:
        dB, dC = (z.unflatten(2, (G, H // G)).sum(3).to(x.dtype) for z in (dB, dC))
    return dx, dB, dC, da, ddelta, None if dskip is None else dskip.sum(0), dh0


def _or(z: Tensor | None, unread: Tensor) -> Tensor:
    """`z`, or another pointer in the place of an argument that the kernel won't read."""
    return unread if z is None else z
