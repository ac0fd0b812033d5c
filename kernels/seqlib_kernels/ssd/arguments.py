# SPDX-License-Identifier: Apache-2.0
"""The arguments of one call under two names, for checks, operators and both backends."""

from typing import NamedTuple

from torch import Tensor


class Decay(NamedTuple):
    """How `op.ssd` is told the decays: `alpha`, or `dt`, `A` and their options."""

    dt: Tensor | None
    A: Tensor | None
    alpha: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool
    negative_eigenvalues: bool


class Tensors(NamedTuple):
    """What the operators and kernels get, in the order of the operators.

    a and delta [B,T,H] and D [H] are in the state's dtype; None: delta 1, no skip, h0 zeros.
    """

    x: Tensor
    B: Tensor
    C: Tensor
    a: Tensor
    delta: Tensor | None
    D: Tensor | None
    h0: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def sequences(self) -> int:
        """The number Nseq of states."""
        return self.x.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    @property
    def state_shape(self) -> tuple[int, ...]:
        """[Nseq, H, P, N]"""
        return self.sequences, *self.x.shape[2:], self.B.shape[3]
