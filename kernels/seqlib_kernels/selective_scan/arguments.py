# SPDX-License-Identifier: Apache-2.0
"""The tensors of one call under one name, for checks, operators and both backends."""

from typing import NamedTuple

from torch import Tensor


class Tensors(NamedTuple):
    """The arguments of `op.selective_scan` that are tensors, in the order of its operators."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    h0: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def sequences(self) -> int:
        """The number Nseq of states."""
        return self.u.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    def states_shape(self, piece: int) -> tuple[int, int, int]:
        """[slots, N, D] of the states at the start of every piece of so many tokens.

        Piece i of sequence number s, whose first token is row r of all tokens, has slot
        r // piece + s + i: unique without a prefix sum, and known without the boundaries' values.
        """
        D, N = self.A.shape
        return self.u.shape[0] * self.u.shape[1] // piece + self.sequences, N, D
