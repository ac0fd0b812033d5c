# SPDX-License-Identifier: Apache-2.0
"""The definition of the selective scan: a loop over time, differentiable by autograd."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

from .._core.discretise import eigenvalues, step_sizes
from .._core.dtypes import state_dtype


def selective_scan(
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
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The arguments and results of `op.selective_scan`, step by step. Cost: T small torch ops."""
    dtype = state_dtype(u.dtype)
    steps = list(
        zip(
            u.to(dtype).unbind(1),
            step_sizes(dt, dt_bias, dt_softplus, dtype).unbind(1),
            by_channel(B, u.shape[2]).to(dtype).unbind(1),
            by_channel(C, u.shape[2]).to(dtype).unbind(1),
            strict=True,
        )
    )
    A = A.to(dtype)
    bounds = [0, u.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()

    outputs, states = [], []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        if initial_state is None:
            h = u.new_zeros((u.shape[0], *A.shape), dtype=dtype)
        else:
            h = initial_state.clone() if cu_seqlens is None else initial_state[i : i + 1].clone()
        for u_t, delta, B_t, C_t in steps[start:stop]:
            a = decay(delta, A, negative_eigenvalues)  # [B,D,N]
            h = a * h + (delta * u_t)[..., None] * B_t
            outputs.append((h * C_t).sum(-1))
        states.append(h)
    y = torch.stack(outputs, 1) if outputs else u.to(dtype)  # T = 0
    y = finish(y, u, D, z)
    return y, torch.cat(states) if return_final_state else None


def by_channel(x: Tensor, channels: int) -> Tensor:
    """B or C as every channel reads it: [B,T,D,N], or [B,T,1,N] where all read the same."""
    if x.ndim == 3:
        return x[:, :, None]
    return x.repeat_interleave(channels // x.shape[2], dim=2)


def decay(delta: Tensor, A: Tensor, negative_eigenvalues: bool) -> Tensor:
    """The eigenvalues [..., D, N] of a step."""
    return eigenvalues(delta[..., None] * A, negative_eigenvalues)


def finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Skip and gate of what was read from the states, in the dtype of `u`."""
    if D is not None:
        y = y + D.to(y.dtype) * u.to(y.dtype)
    if z is not None:
        y = y * silu(z.to(y.dtype))
    return y.to(u.dtype)
