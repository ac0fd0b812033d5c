# SPDX-License-Identifier: Apache-2.0
"""The definition of the delta rule: a loop over time, differentiable by autograd."""

from itertools import pairwise

import torch
from torch import Tensor

from .._core.dtypes import state_dtype

NORM_EPS = 1e-6


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    *,
    alpha: Tensor | None = None,
    scale: float | None = None,
    normalize_qk: bool = False,
    num_householder: int = 1,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The arguments and results of `op.delta_rule`, step by step. Cost: T small torch ops."""
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    dtype = state_dtype(q.dtype)
    factor = K**-0.5 if scale is None else scale
    q_T, k_T, v_T, beta_T = (x.to(dtype).unbind(1) for x in (q, k, v, beta))
    decay = g.to(dtype).exp() if g is not None else alpha
    decay_T = None if decay is None else decay.to(dtype).unbind(1)
    bounds = [0, T] if cu_seqlens is None else cu_seqlens.tolist()

    def heads(x: Tensor) -> Tensor:  # [B,H,K] -> [B,HV,K]
        if normalize_qk:
            x = x * (x.square().sum(-1, keepdim=True) + NORM_EPS).rsqrt()
        return x.repeat_interleave(HV // H, dim=1)

    outputs, states = [], []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        S = q.new_zeros((B, HV, K, V), dtype=dtype)
        if initial_state is not None:
            S = initial_state.clone() if cu_seqlens is None else initial_state[i : i + 1].clone()
        for t in range(start, stop):
            if decay_T is not None:
                S = decay_T[t][..., None, None] * S
            for j in range(num_householder * t, num_householder * (t + 1)):
                k_j = heads(k_T[j])[..., None]  # [B,HV,K,1]
                e_j = v_T[j][..., None, :] - (k_j * S).sum(-2, keepdim=True)  # [B,HV,1,V]
                S = S + beta_T[j][..., None, None] * k_j * e_j
            outputs.append(factor * (heads(q_T[t])[..., None] * S).sum(-2))
        states.append(S)
    o = torch.stack(outputs, 1).to(q.dtype) if outputs else v[:, :0].clone()
    return o, torch.cat(states) if return_final_state else None
