# SPDX-License-Identifier: Apache-2.0
"""The selective scan as a loop over time in torch, eager and compiled in pieces of 64 steps."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .ssm_inputs import decay, step_sizes, wide

PIECE = 64  # steps: compiled whole, the loop would take hours


def walk(
    h: Tensor, A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, negative: bool
) -> tuple[Tensor, Tensor]:
    """What some steps read [B, T, D], and the state [B, D, N] behind them."""
    outputs = []
    steps = zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True)
    for u_t, delta_t, B_t, C_t in steps:
        a = decay(delta_t[..., None] * A, negative)
        h = a * h + (delta_t * u_t)[..., None] * B_t
        outputs.append((h * C_t).sum(-1))
    return torch.stack(outputs, 1), h


def loop(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    negative_eigenvalues: bool = False,
    each: Callable[..., Any] = walk,
) -> Tensor:
    """The op's arguments and layout; autograd keeps the graph of all steps."""
    dtype, channels = u.dtype, u.shape[2]
    u, A, delta = wide(u), wide(A), step_sizes(dt, dt_bias, dt_softplus)
    B, C = (
        x[:, :, None] if x.ndim == 3 else x.repeat_interleave(channels // x.shape[2], 2)
        for x in (wide(B), wide(C))
    )
    h = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for piece in zip(*(x.split(PIECE, 1) for x in (u, delta, B, C)), strict=True):
        y, h = each(h, A, *piece, negative_eigenvalues)
        outputs.append(y)
    y = torch.cat(outputs, 1)
    y = y if D is None else y + wide(D) * u
    return (y if z is None else y * F.silu(wide(z))).to(dtype)


def _compiled(problem: Problem) -> Call:
    each = torch.compile(walk, dynamic=False)

    def function(*tensors: Tensor, **arguments: Any) -> Tensor:
        return loop(*tensors, **arguments, each=each)

    return TorchCall(function, problem)


CONTENDERS = (
    Contender(
        name="torch loop",
        prepare=lambda problem: TorchCall(loop, problem),
        device="cpu",
        sequential=True,
    ),
    Contender(name="torch loop, compiled pieces", prepare=_compiled, device="cpu", compiled=True),
)
