# SPDX-License-Identifier: Apache-2.0
"""The tensors of one call under one name, and the parameters of one step of time."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..discretise import discretise
from ..pairs import as_pairs, mul


class Tensors(NamedTuple):
    """What the operators of x_t = a x_{t-1} + b u_t, y_t = Re(sum over modes of c x_t) + D u_t get.

    u [B,T,H]; a, b, c: float64 pairs [H,M,2]; D [H] and h0 [Nseq,H,M,2] in the state's dtype.
    """

    u: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    D: Tensor | None
    h0: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def sequences(self) -> int:
        """The number Nseq of states."""
        return self.u.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    def states_shape(self, piece: int) -> tuple[int, int, int, int]:
        """[slots, H, M, 2] of the states kept at the start of every piece of so many tokens.

        Piece i, in the order of the walk, of sequence number s, whose first token is row r of all
        tokens, has slot r // piece + s + i: unique without a prefix sum, and known without the
        boundaries' values.
        """
        H, M, _ = self.a.shape
        return self.u.shape[0] * self.u.shape[1] // piece + self.sequences, H, M, 2


def one_step(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    discretization: str,
    rate: float,
    conj_sym: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b [H,M,2] and c [H,M,2] or [2,H,M,2] of every channel, float64 pairs.

    Channel h reads copy h mod S of A and B. The weight of a mode, 2 where each stands for itself
    and its conjugate, is in c.
    """
    A, B, C = (as_pairs(x).to(torch.float64) for x in (A, B, C))
    copies = dt.shape[0] // A.shape[0]
    A, B = (x.repeat(copies, 1, 1) for x in (A, B))
    steps = dt.to(torch.float64) * rate
    a, gain = discretise(A, steps[:, None] if steps.ndim == 1 else steps, discretization)
    return a, mul(gain, B), (2 if conj_sym else 1) * C
