# SPDX-License-Identifier: Apache-2.0
"""The definition of the state-space dual: a loop over time, differentiable by autograd."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from .._core.dtypes import state_dtype


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
    delta, a = discretise(dt, A, alpha, dt_bias, dt_softplus, negative_eigenvalues, dtype)
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


def discretise(
    dt: Tensor | None,
    A: Tensor | None,
    alpha: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    negative_eigenvalues: bool,
    dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor]:
    """The step sizes Delta (None: all 1) and the decays a, [B, T, H] in `dtype`."""
    if dt is None or A is None:
        if alpha is None:
            raise ValueError("alpha must be given where dt and A are not")
        return None, alpha.to(dtype)
    delta = dt.to(dtype).contiguous()  # sums of its gradient depend on strides
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if dt_softplus:
        delta = _softplus(delta)
    e = (delta * A.to(dtype)).exp()
    return delta, 2 * e - 1 if negative_eigenvalues else e


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), and x beyond 20."""
    if x.device.type != "cpu":
        return F.softplus(x)
    # torch's own rounds an element by where it lies in memory: no two cuts of a batch would agree
    return torch.where(x > 20, x, x.clamp(max=20).exp().log1p())
