# SPDX-License-Identifier: Apache-2.0
"""The definition of the state-space dual: a loop over time, differentiable by autograd."""

from itertools import pairwise

import torch
from torch import Tensor

from .._core.discretise import eigenvalues, step_sizes
from .._core.dtypes import state_dtype
from .arguments import Decay


def ssd(
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
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The arguments and results of `op.ssd`, step by step. Cost: T small torch ops."""
    batch, T, H, P = x.shape
    G, N = B.shape[2:]
    dtype = state_dtype(x.dtype)
    decay = Decay(dt, A, alpha, dt_bias, dt_softplus, negative_eigenvalues)
    delta, a = discretise(decay, dtype)
    a_T, x_T, B_T, C_T = (z.to(dtype).unbind(1) for z in (a, x, B, C))
    delta_T = None if delta is None else delta.unbind(1)
    bounds = [0, T] if cu_seqlens is None else cu_seqlens.tolist()

    outputs, states = [], []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        S = x.new_zeros((batch, H, P, N), dtype=dtype)
        if initial_state is not None:
            S = initial_state.clone() if cu_seqlens is None else initial_state[i : i + 1].clone()
        for t in range(start, stop):
            u = x_T[t] if delta_T is None else delta_T[t][..., None] * x_T[t]  # [B,H,P]
            B_t, C_t = (z[t].repeat_interleave(H // G, dim=1)[..., None, :] for z in (B_T, C_T))
            S = a_T[t][..., None, None] * S + u[..., None] * B_t
            y = (S * C_t).sum(-1)
            outputs.append(y if D is None else y + D.to(dtype)[:, None] * x_T[t])
        states.append(S)
    y = torch.stack(outputs, 1).to(x.dtype) if outputs else x[:, :0].clone()
    return y, torch.cat(states) if return_final_state else None


def discretise(decay: Decay, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    """The step sizes Delta (None: all 1) and the decays a, [B, T, H] in `dtype`."""
    if decay.dt is None or decay.A is None:
        if decay.alpha is None:
            raise ValueError("alpha must be given where dt and A are not")
        return None, decay.alpha.to(dtype)
    delta = step_sizes(decay.dt, decay.dt_bias, decay.dt_softplus, dtype)
    return delta, eigenvalues(delta * decay.A.to(dtype), decay.negative_eigenvalues)
