# SPDX-License-Identifier: Apache-2.0
"""The definition of joint attention: every pair of frames of a sequence, masked by groups."""

from itertools import pairwise

import torch
from torch import Tensor

from ..._core.dtypes import state_dtype


def joint_attention(
    z: Tensor,
    qk: Tensor,
    gamma: Tensor,
    beta: Tensor,
    freqs: Tensor,
    *,
    group_size: int,
    causal: bool = False,
    normalize: str = "frames",
    keep: Tensor | None = None,
    keep_scale: float = 1.0,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """The arguments and result of `op.joint_attention`. Cost: T^2 numbers per sequence."""
    dtype, T = state_dtype(z.dtype), z.shape[1]
    gamma, beta = gamma.to(dtype), beta.to(dtype)
    outputs = [z[:, :0, : z.shape[2] // 2].to(dtype)]
    for start, stop in pairwise([0, T] if cu_seqlens is None else cu_seqlens.tolist()):
        z_n, qk_n = (x[:, start:stop].to(dtype) for x in (z, qk))
        frames = torch.arange(stop - start, device=z.device)
        quad_q, lin_q, quad_k, lin_k = rotated_heads(qk_n, gamma, beta, freqs, frames)
        P = torch.relu(quad_q @ quad_k.mT / group_size).square()  # [B,L,L]
        if keep is not None:
            P = P * keep[:, start:stop, frames % group_size] * keep_scale
        group = frames // group_size
        local = group[:, None] == group
        if causal:
            local = local & (frames[:, None] >= frames)
            earlier = (group if normalize == "frames" else torch.ones_like(group)).clamp(min=1)
            beyond = (group[:, None] > group).to(dtype) / (group_size * earlier[:, None])
        else:
            beyond = torch.ones_like(local, dtype=dtype) / max(1, stop - start)
        A = (torch.where(local, P, 0) + beyond * (lin_q @ lin_k.mT)) @ z_n
        (A_v, A_u), (v, u) = A.chunk(2, -1), z_n.chunk(2, -1)
        outputs.append(A_u * v * torch.sigmoid(A_v * u))
    return torch.cat(outputs, 1).to(z.dtype), None


def rotated_heads(
    qk: Tensor, gamma: Tensor, beta: Tensor, freqs: Tensor, position: Tensor
) -> tuple[Tensor, ...]:
    """quad_q, lin_q, quad_k and lin_k [B,L,S] of qk [B,L,S] in frames `position`, [L] or [B,L].

    Angles are float64: float32 would be wrong by a hundredth after some 10^5 frames.
    """
    angles = position[..., None].double() * freqs.detach().double()
    cos, sin = (x.to(qk.dtype) for x in (angles.cos(), angles.sin()))
    heads = []
    for gain, offset in zip(gamma, beta, strict=True):
        head = qk * gain + offset
        even, odd = head[..., : 2 * freqs.shape[0]].unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
        heads.append(torch.cat((turned, head[..., 2 * freqs.shape[0] :]), -1))
    return tuple(heads)
