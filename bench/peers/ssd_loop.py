# SPDX-License-Identifier: Apache-2.0
"""The state-space dual as a loop over time in torch, eager and compiled in pieces of 64 steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .ssm_inputs import decay, step_sizes, wide

PIECE = 64  # steps: compiled whole, the loop would take hours


def walk(S: Tensor, a: Tensor, u: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """What some steps read [B, T, H, P], and the state [B, H, P, N] behind them."""
    a, u, B, C = a[..., None, None], u[..., None], B[..., None, :], C[..., None]
    outputs = []
    steps = zip(a.unbind(1), u.unbind(1), B.unbind(1), C.unbind(1), strict=True)
    for a_t, u_t, B_t, C_t in steps:
        S = a_t * S + u_t * B_t
        outputs.append((S @ C_t)[..., 0])
    return torch.stack(outputs, 1), S


def loop(
    x: Tensor,
    dt: Tensor | None,
    A: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    alpha: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    negative_eigenvalues: bool = False,
    each: Callable[..., Any] = walk,
) -> Tensor:
    """The op's arguments and layout; autograd keeps the graph of all steps."""
    dtype, H = x.dtype, x.shape[2]
    x = u = wide(x)
    if dt is not None and A is not None:
        delta = step_sizes(dt, dt_bias, dt_softplus)
        a, u = decay(delta * wide(A), negative_eigenvalues), delta[..., None] * x
    else:
        a = wide(x if alpha is None else alpha)
    B, C = (wide(z).repeat_interleave(H // z.shape[2], 2) for z in (B, C))
    S = x.new_zeros(x.shape[0], H, x.shape[3], B.shape[3])
    outputs = []
    for piece in zip(*(z.split(PIECE, 1) for z in (a, u, B, C)), strict=True):
        y, S = each(S, *piece)
        outputs.append(y)
    y = torch.cat(outputs, 1)
    return (y if D is None else y + wide(D)[:, None] * x).to(dtype)


def _compiled(problem: Problem) -> Call:
    each = torch.compile(walk, dynamic=False)

    def function(**arguments: Any) -> Tensor:
        return loop(**arguments, each=each)

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
