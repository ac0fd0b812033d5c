# SPDX-License-Identifier: Apache-2.0
"""The state-space dual by chunks of 64 steps in torch: products, and a loop over chunks.

With l the running sum of log decays inside a chunk, L_ij = exp(l_i - l_j) for i >= j and u the
inputs times their step sizes: Y = (C B' * L) u + exp(l) C S', S = exp(l_C) S + (exp(l_C - l) u)' B.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .ssm_inputs import refuses_signed_decay, step_sizes, wide

CHUNK = 64


def chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """The op's arguments and layout, for decays above zero."""
    T, H, dtype = x.shape[1], x.shape[2], x.dtype
    x, delta = wide(x), step_sizes(dt, dt_bias, dt_softplus)

    def chunks(z: Tensor) -> Tensor:  # [B, T, H, dim] -> [B, H, N, C, dim]
        z = F.pad(z.transpose(1, 2), (0, 0, 0, -T % CHUNK)).unflatten(2, (-1, CHUNK))
        return z.repeat_interleave(H // z.shape[1], 1)

    u, B, C = chunks(delta[..., None] * x), chunks(wide(B)), chunks(wide(C))
    total = chunks((delta * wide(A))[..., None]).cumsum(-2)  # [B,H,N,C,1]
    # what lies above the diagonal may overflow: it goes before and after the exponential
    between = (total - total.mT).tril().exp().tril()
    inside = (C @ B.mT * between) @ u
    last = total[..., -1:, :]
    written = ((last - total).exp() * u).mT @ B  # [B,H,N,P,N]
    S = torch.zeros_like(written[:, :, 0])
    entering = []
    for keep, new in zip(last.exp().unbind(2), written.unbind(2), strict=True):
        entering.append(S)
        S = keep * S + new
    y = inside + total.exp() * (C @ torch.stack(entering, 2).mT)
    y = y.flatten(2, 3)[:, :, :T].transpose(1, 2)
    return (y if D is None else y + wide(D)[:, None] * x).to(dtype)


def _eager(problem: Problem) -> Call:
    return TorchCall(chunked, problem)


def _compiled(problem: Problem) -> Call:
    return TorchCall(torch.compile(chunked, dynamic=False), problem)


CONTENDERS = (
    Contender(name="torch chunked", prepare=_eager, refuses=refuses_signed_decay),
    Contender(
        name="torch chunked, compiled",
        prepare=_compiled,
        refuses=refuses_signed_decay,
        compiled=True,
    ),
)
