# SPDX-License-Identifier: Apache-2.0
"""Launchers of the diagonal model's Triton kernels: two launches forward, four backward.

Either pass has one more where sequences are split into segments.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false

from typing import Any

import torch
import triton
from torch import Tensor

from ..._core import alloc
from ..._core.backend import interpreting
from ..._core.chunks import slots
from ..._core.dtypes import state_dtype
from .arguments import Tensors
from .kernels_gradients import table_gradients
from .kernels_tables import make_tables, parameter_gradients
from .kernels_walk import walk
from .launch import pick, precision, segment_groups

PER = 512  # chunks whose share in the gradients of tables one program sums


class _Plan:
    """What all launches of one call share: sizes, constants, grids."""

    def __init__(self, given: Tensors, reverse: bool) -> None:
        u, (H, M, _) = given.u, given.a.shape
        if u.dtype == torch.float64 and not interpreting():
            raise TypeError("u must not be float64 on a GPU: use float32, or backend='reference'")
        self.given, self.reverse, self.dtype = given, reverse, state_dtype(u.dtype)
        self.row = pick(u, M)
        self.H, self.M, self.BT = H, M, self.row.tiles["BT"]
        self.limits = {
            "BH": max(1, triton.next_power_of_2(H)),
            "BM": max(16, triton.next_power_of_2(M)),
        }
        self.packed = given.cu_seqlens is not None
        self.precision = precision(u.dtype, self.row)
        self.states = given.states_shape(self.BT)
        self.groups = segment_groups(u, M, given.sequences)
        self.per = self.groups * (self.row.tiles["R"] - 1)  # chunks of a segment

    def empty(self, *shape: int) -> Tensor:
        return alloc.empty(shape, self.given.u, self.dtype)

    def options(self, kernel: Any, *tiles: str) -> dict[str, Any]:
        """Tiles of these names and compiler options of one kernel."""
        options = self.row.options(kernel.__name__)
        for name in self.row.tiles.keys() - set(tiles):
            options.pop(name)
        return {n: min(x, self.limits.get(n, x)) for n, x in options.items()}

    def tables(self) -> tuple[Tensor, Tensor]:
        """What chunks are multiplied with, and states in float64; see `make_tables`."""
        H, M, given = self.H, self.M, self.given
        tables = self.empty(H, self.BT * (1 + 6 * M) + 2 * M)
        steps = alloc.empty((H, 2, 2, M), given.a)
        if H:
            make_tables[(H,)](
                given.a, given.b, given.c, given.D, tables, steps, self.groups,
                M=M, SKIP=given.D is not None, **self.options(make_tables, "BT", "R", "BM"),
            )  # fmt: skip
        return tables, steps

    def walk(
        self,
        x: Tensor,
        tables: Tensor,
        steps: Tensor,
        h0: Tensor | None,
        *,
        adjoint: bool,
        save: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, final states and the states before chunks; of the adjoint, its own."""
        given, H, (B, T) = self.given, self.H, x.shape[:2]
        y, hT = alloc.empty(x.shape, x), self.empty(given.sequences, H, self.M, 2)
        states = self.empty(self.states[0] if save else 0, *self.states[1:])
        if save and not self.packed:
            states[B * triton.cdiv(T, self.BT) :].zero_()  # slots without a chunk
        options = self.options(walk, "BT", "R", "BH", "BM")
        pieces, ends, walks = given.sequences, None, [(True, hT)]
        if self.groups:
            pieces = slots(B, T, given.sequences, self.per * self.BT)
            ends, carry = (self.empty(pieces, H, self.M, 2) for _ in range(2))
            walks = [(False, ends), (True, carry)]
        grid = (pieces * triton.cdiv(H, options["BH"]),)
        for output, carry in walks:
            if grid[0]:
                walk[grid](
                    x, tables, steps, h0, ends, given.cu_seqlens, y, hT, carry, states,
                    given.sequences, T, self.per, H=H, M=self.M, PACKED=self.packed,
                    BACKWARDS=self.reverse != adjoint, ADJOINT=adjoint, SPLIT=self.groups > 0,
                    INITIAL=h0 is not None, OUTPUT=output, KEEP=save and output,
                    PRECISION=self.precision[0], **options,
                )  # fmt: skip
        return y, hT, states


def forward(given: Tensors, reverse: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,H], hT [Nseq,H,M,2] and the states kept for `backward`; see `op.py`."""
    plan = _Plan(given, reverse)
    return plan.walk(given.u, *plan.tables(), given.h0, adjoint=False, save=save)


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, states: Tensor, reverse: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of u, a, b, c, D (or None) and h0; see `op.py`."""
    plan = _Plan(given, reverse)
    tables, steps = plan.tables()
    du, dh0, adjoints = plan.walk(dy, tables, steps, dhT, adjoint=True, save=True)

    # Blocks of chunks write their parts apart, and the parts are added in order.
    H, M, BT, count = plan.H, plan.M, plan.BT, states.shape[0]
    splits = triton.cdiv(count, PER)
    parts = plan.empty(splits, H, BT * (BT + 4 * M) + 2 * M)
    options = plan.options(table_gradients, "BT", "R", "BH", "BM")
    grid = (splits * triton.cdiv(H, options["BH"]), 1 + triton.cdiv(M, options["BM"]))
    if grid[0]:
        table_gradients[grid](
            given.u, dy, states, adjoints, tables, given.cu_seqlens, parts,
            given.sequences, given.u.shape[1], count, PER, given.sequences.bit_length(),
            H=H, M=M, PACKED=plan.packed, BACKWARDS=reverse, PRECISION=plan.precision[1],
            **options,
        )  # fmt: skip
    grads = tuple(alloc.empty(x.shape, x) for x in (given.a, given.b, given.c))
    dskip = None if given.D is None else alloc.empty(given.D.shape, given.D)
    options = plan.options(parameter_gradients, "BT", "BM")
    if H:
        parameter_gradients[(H, max(1, triton.cdiv(M, options["BM"])))](
            given.a, given.b, given.c, parts, *grads, dskip,
            splits, H=H, M=M, **options,
        )  # fmt: skip
    return du, *grads, dskip, dh0
