# SPDX-License-Identifier: Apache-2.0
"""Launchers of the MIMO model's Triton kernels: four launches forward, six backward."""
# pyright: reportCallIssue=false, reportIndexIssue=false

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..._core import alloc
from ..._core.backend import interpreting
from ..._core.chunks import arithmetic
from ..._core.dtypes import state_dtype
from .arguments import Tensors
from .kernels_gradients import weight_gradients
from .kernels_tables import make_tables, parameter_gradients
from .kernels_walk import chunk_outputs, chunk_states, join
from .launch import pick, states_shape

PER = 2048  # tokens whose share in the gradients of weights one program sums


class _Tables(NamedTuple):
    """What chunks are multiplied with, as planes of real and imaginary parts, see `make_tables`.

    powers [BT+1,2,P] and into, out_of [2,P,H] in the dtype of states; span [2,P] in float64.
    """

    powers: Tensor
    span: Tensor
    into: Tensor
    out_of: Tensor

    def adjoint(self) -> "_Tables":
        """Of the walk that takes the gradient of outputs to that of inputs."""
        return self._replace(into=self.out_of, out_of=self.into)


class _Plan:
    """What all launches of one call share: sizes, constants, grids."""

    def __init__(self, given: Tensors, reverse: bool) -> None:
        u, (P, H, _) = given.u, given.B.shape
        if u.dtype == torch.float64 and not interpreting():
            raise TypeError("u must not be float64 on a GPU: use float32, or backend='reference'")
        self.given, self.dtype, self.row = given, state_dtype(u.dtype), pick(u)
        self.H, self.P = H, P
        self.constants = {
            "H": H, "P": P, **self.row.tiles,
            "PACKED": given.cu_seqlens is not None, "BACKWARDS": reverse,
            "PRECISION": arithmetic(u.dtype, self.row).precision,
        }  # fmt: skip
        self.states = states_shape(given, self.row.tiles["BT"])

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return alloc.empty(shape, self.given.u, dtype or self.dtype)

    def launch(
        self, kernel: Any, count: int, tiled: tuple[str, ...], *arguments: Any, **flags: bool
    ) -> None:
        """Run `kernel` in `count` programs for each of the tiles of these names."""
        sizes = {"BP": self.P, "BH": self.H, "BK": self.H}
        own = self.row.compile_options(kernel.__name__)
        constants = {**self.constants, **flags, **own}
        for tile, size in sizes.items():
            constants[tile] = min(constants[tile], max(16, triton.next_power_of_2(size)))
        for tile in tiled:
            count *= triton.cdiv(sizes[tile], constants[tile])
        unknown = self.constants.keys() - set(kernel.arg_names)
        if count:
            options = {name: x for name, x in constants.items() if name not in unknown}
            kernel[(count,)](*arguments, **options)

    def tables(self) -> _Tables:
        """Made in float64 and rounded to the dtype of states."""
        H, P, given = self.H, self.P, self.given
        tables = _Tables(
            self.empty(self.constants["BT"] + 1, 2, P),
            self.empty(2, P, dtype=torch.float64),
            self.empty(2, P, H),
            self.empty(2, P, H),
        )
        self.launch(make_tables, 1, ("BP", "BH"), given.a, given.B, given.C, *tables)
        return tables

    def walk(
        self, tables: _Tables, x: Tensor, h0: Tensor | None, adjoint: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, final states and the states that enter chunks; of the adjoint, its own."""
        given, T = self.given, x.shape[1]
        y, hT = alloc.empty(x.shape, x), self.empty(*given.state_shape)
        sums, states = self.empty(*self.states), self.empty(*self.states)
        slots, sizes = self.states[0], (given.sequences, T)
        powers, span, into, out_of = tables
        self.launch(
            chunk_states, slots, ("BP",),
            x, into, powers, given.cu_seqlens, sums, *sizes, ADJOINT=adjoint,
        )  # fmt: skip
        self.launch(
            join, given.sequences, ("BP",),
            sums, powers, span, h0, given.cu_seqlens, states, hT, T, ADJOINT=adjoint,
        )  # fmt: skip
        self.launch(
            chunk_outputs, slots, ("BH",),
            x, into, out_of, given.D, powers, states, given.cu_seqlens, y, *sizes,
            ADJOINT=adjoint,
        )  # fmt: skip
        return y, hT, states


def forward(given: Tensors, reverse: bool, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y [B,T,H], hT [Nseq,P,2] and the states kept for `backward`; see `op.py`."""
    plan = _Plan(given, reverse)
    y, hT, states = plan.walk(plan.tables(), given.u, given.h0, adjoint=False)
    return y, hT, [states] if save else []


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, saved: list[Tensor], reverse: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of u, a, B, C, D (or None) and h0; see `op.py`."""
    plan, (states,) = _Plan(given, reverse), saved
    tables = plan.tables()
    du, dh0, adjoints = plan.walk(tables.adjoint(), dy, dhT, adjoint=True)

    # Groups of chunks write their parts apart, and the parts are added in order.
    slots, per = states.shape[0], PER // plan.constants["BT"]
    splits, H, P = triton.cdiv(slots, per), plan.H, plan.P
    parts = (
        plan.empty(splits, 2, P, H),
        plan.empty(splits, 2, P, H),
        plan.empty(splits, 2, P),
        None if given.D is None else plan.empty(splits, H),
    )
    plan.launch(
        weight_gradients, splits, ("BP", "BH"),
        given.u, dy, tables.into, tables.out_of, tables.powers, states, adjoints, given.cu_seqlens,
        *parts, given.sequences, given.u.shape[1], slots, per,
    )  # fmt: skip
    grads = tuple(
        None if x is None else alloc.empty(x.shape, x) for x in (given.a, given.B, given.C, given.D)
    )
    plan.launch(parameter_gradients, 1, ("BP", "BH"), *parts, *grads, splits)
    return du, *grads, dh0
