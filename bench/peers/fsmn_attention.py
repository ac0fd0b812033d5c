# SPDX-License-Identifier: Apache-2.0
"""Joint attention as usually written: rotated heads, padded groups, einsums, a gate behind them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem


def attend(
    v: Tensor, u: Tensor, qk: Tensor, gamma: Tensor, beta: Tensor, freqs: Tensor, group_size: int
) -> Tensor:
    """The gated output [B, T, E] of v, u [B, T, E] and qk [B, T, S]; not causal."""
    T, G = qk.shape[1], group_size
    heads = qk[..., None, :] * gamma + beta
    rotated = [_rotate(head, freqs) for head in heads.unbind(-2)]
    parts = [F.pad(x, (0, 0, 0, -T % G)) for x in (*rotated, v, u)]
    grouped = [x.reshape(x.shape[0], -1, G, x.shape[-1]) for x in parts]
    quad_q, lin_q, quad_k, lin_k, v_g, u_g = grouped
    similarity = torch.einsum("bgid,bgjd->bgij", quad_q, quad_k) / G
    attention = F.relu(similarity) ** 2
    mixed = []
    for x in (v_g, u_g):
        local = torch.einsum("bgij,bgjd->bgid", attention, x)
        memory = torch.einsum("bgnd,bgne->bde", lin_k, x) / T
        glob = torch.einsum("bgnd,bde->bgne", lin_q, memory)
        mixed.append((local + glob).flatten(1, 2)[:, :T])
    return mixed[1] * v * torch.sigmoid(mixed[0] * u)


def _rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """The first channels of x [B, T, S] by the angle of their frame, in interleaved pairs."""
    angles = torch.arange(x.shape[1], device=x.device)[:, None] * freqs
    angles = angles.repeat_interleave(2, -1)
    turned, kept = x[..., : angles.shape[-1]], x[..., angles.shape[-1] :]
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    across = torch.stack((-odd, even), -1).flatten(-2)
    cos, sin = (y.to(x.dtype) for y in (angles.cos(), angles.sin()))
    return torch.cat((turned * cos + across * sin, kept), -1)


def _prepare(problem: Problem) -> Call:
    def function(
        z: Tensor, qk: Tensor, gamma: Tensor, beta: Tensor, *, freqs: Tensor, group_size: int
    ) -> Tensor:
        v, u = z.chunk(2, -1)
        return attend(v, u, qk, gamma, beta, freqs.to(z.device), group_size)

    return TorchCall(function, problem)


def _refuses(problem: Problem) -> str | None:
    return "not causal" if problem.case.options.get("causal") else None


CONTENDERS = (Contender(name="torch einsum", prepare=_prepare, refuses=_refuses),)
