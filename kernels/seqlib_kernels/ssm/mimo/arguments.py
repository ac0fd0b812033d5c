# SPDX-License-Identifier: Apache-2.0
"""The tensors of one call under one name, and the parameters of one step of time."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..._core.ops import contiguous
from ..._core.varlen import on_device
from ..discretise import discretise
from ..pairs import as_pairs, conj


class Tensors(NamedTuple):
    """What the operators of x_t = a x_{t-1} + B u_t, y_t = Re(C x_t) + D u_t get.

    u [B,T,H]; a [P,2], B [P,H,2], C [H,P,2], pairs, and D [H], all float64; h0 [Nseq,P,2] in the
    state's dtype.
    """

    u: Tensor
    a: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    h0: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def sequences(self) -> int:
        """The number Nseq of states."""
        return self.u.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """[Nseq, P, 2]"""
        return self.sequences, self.a.shape[0], 2


def for_kernels(given: Tensors) -> Tensors:
    """The tensors as the kernels read them."""
    return Tensors(*contiguous(*given[:-1], on_device(given.cu_seqlens, given.u)))


class Rate(NamedTuple):
    """A step size for every token: `Tensors.a` is then z = dt A, and B comes with the factor dt.

    of_tokens: float64 [B,T]; zoh: else bilinear.
    """

    of_tokens: Tensor
    zoh: bool


def continuous(
    A: Tensor, B: Tensor, C: Tensor, dt: Tensor, conj_sym: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, B, C with the weight of a state, and dt, in float64.

    A state that stands for itself and its conjugate counts 2.
    """
    A, B, C = (as_pairs(x).to(torch.float64).contiguous() for x in (A, B, C))
    return A, B, (2 if conj_sym else 1) * C, dt.to(torch.float64).contiguous()


def one_step(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    discretization: str,
    rate: float | Tensor,
    conj_sym: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, gain, B and C of x_t = a x_{t-1} + gain B u_t, y_t = Re(C x_t), float64 pairs.

    a and gain are [P,2], or [B,T,P,2] where every token has a rate of its own.
    """
    A, B, C, dt = continuous(A, B, C, dt, conj_sym)
    if isinstance(rate, Tensor):
        rate = rate.to(torch.float64).contiguous()[..., None]
    a, gain = discretise(A, dt * rate, discretization)
    return a, gain, B, C


def project(B: Tensor, u: Tensor) -> Tensor:
    """B u: [..., P, 2] of B [P,H,2] and u [...,H]."""
    return (u @ B.movedim(1, 0).flatten(1)).unflatten(-1, (B.shape[0], 2))


def read(C: Tensor, x: Tensor) -> Tensor:
    """Re(C x): [..., H] of C [H,P,2] and x [...,P,2]."""
    return x.flatten(-2) @ conj(C).flatten(1).T
