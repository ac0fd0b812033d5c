# SPDX-License-Identifier: Apache-2.0
"""The delta rule by chunks of 64 rows in torch: products and one triangular solve, WY form.

Inside a chunk, with A = tril(diag(beta) (K K' * G), -1) and G_ij the decay from row j to row i:
W = (I + A)^-1 diag(beta gamma) K and U = (I + A)^-1 diag(beta) V hold all that does not depend on
the state; then, chunk after chunk, V' = U - W S, O = gamma Q S + (Q K' * G) V' and
S = gamma_C S + (diag(G_C) K)' V'.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .delta_inputs import heads

CHUNK = 64

Pieces = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def prepare_chunks(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None) -> Pieces:
    """What needs no state, for rows [B, H, N, C, dim] of N chunks, all at once.

    Returns gamma Q, decayed K transposed, the attention inside chunks, W, U and gamma_C.
    """
    C = q.shape[-2]
    k_beta, v_beta = beta[..., None] * k, beta[..., None] * v
    gram, attention = k_beta @ k.mT, (q @ k.mT).tril()
    if g is None:
        last = q.new_ones(*q.shape[:3], 1, 1)
        q_in, k_out, k_in = q, k.mT, k_beta
    else:
        total = g.cumsum(-1)[..., None]  # [B,H,N,C,1]
        between = (total - total.mT).tril().exp().tril()
        gram, attention = gram * between, attention * between
        gamma, last = total.exp(), total[..., -1:, :].exp()
        q_in, k_in = gamma * q, gamma * k_beta
        k_out = ((total[..., -1:, :] - total).exp() * k).mT
    eye = torch.eye(C, dtype=q.dtype, device=q.device)
    both = torch.cat((k_in, v_beta), -1)
    W, U = torch.linalg.solve_triangular(
        gram.tril(-1) + eye, both, upper=False, unitriangular=True
    ).split((k.shape[-1], v.shape[-1]), -1)
    return q_in, k_out, attention, W, U, last


def pass_state(
    q_in: Tensor, k_out: Tensor, attention: Tensor, W: Tensor, U: Tensor, last: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """One chunk: its output [B, H, C, V] and the state [B, H, K, V] behind it."""
    new = U - W @ S
    return q_in @ S + attention @ new, last * S + k_out @ new


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    *,
    scale: float | None = None,
    normalize_qk: bool = False,
    num_householder: int = 1,
    before: Callable[..., Any] = prepare_chunks,
    each: Callable[..., Any] = pass_state,
) -> Tensor:
    """The op's arguments and layout; the n rows of a token become n rows, read after the last."""
    n, T, HV, dtype = num_householder, q.shape[1], v.shape[2], v.dtype
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q, k = heads(q, HV, normalize_qk), heads(k, HV, normalize_qk)
    v, beta = v.to(q.dtype), beta.to(q.dtype)
    if n > 1:
        q = F.pad(q[:, :, None], (0, 0, 0, 0, n - 1, 0)).flatten(1, 2)
        g = None if g is None else F.pad(g[:, :, None], (0, 0, 0, n - 1)).flatten(1, 2)

    def chunks(x: Tensor) -> Tensor:  # [B, n*T, H, ...] -> [B, H, N, C, ...]
        x = x.transpose(1, 2)
        behind = (0, 0) * (x.ndim - 3) + (0, -x.shape[2] % CHUNK)
        return F.pad(x, behind).unflatten(2, (-1, CHUNK))

    pieces = before(
        chunks(factor * q), chunks(k), chunks(v), chunks(beta), None if g is None else chunks(g)
    )
    S = q.new_zeros(q.shape[0], HV, q.shape[-1], v.shape[-1])
    outputs = []
    for chunk in zip(*(x.unbind(2) for x in pieces), strict=True):
        o, S = each(*chunk, S)
        outputs.append(o)
    o = torch.cat(outputs, 2)[:, :, : n * T]
    return o[:, :, n - 1 :: n].transpose(1, 2).to(dtype)


def _eager(problem: Problem) -> Call:
    return TorchCall(chunkwise, problem)


def _compiled(problem: Problem) -> Call:
    """The work inside chunks and the step between them are compiled, the loop is not."""
    before = torch.compile(prepare_chunks, dynamic=False)
    each = torch.compile(pass_state, dynamic=False)

    def function(*tensors: Tensor, **arguments: Any) -> Tensor:
        return chunkwise(*tensors, **arguments, before=before, each=each)

    return TorchCall(function, problem)


def _refuses(problem: Problem) -> str | None:
    return "no signed decay" if "alpha" in problem.inputs else None


CONTENDERS = (
    Contender(name="torch chunkwise WY", prepare=_eager, refuses=_refuses),
    Contender(
        name="torch chunkwise WY, compiled", prepare=_compiled, refuses=_refuses, compiled=True
    ),
)
