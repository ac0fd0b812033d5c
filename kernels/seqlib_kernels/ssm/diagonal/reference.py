# SPDX-License-Identifier: Apache-2.0
"""The definition of the diagonal state-space model: a loop over time, seen by autograd."""

from itertools import pairwise

import torch
from torch import Tensor

from ..._core.dtypes import state_dtype
from ..pairs import as_pairs, mul
from .arguments import one_step


def diagonal_ssm(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    mode: str = "auto",
    discretization: str = "zoh",
    rate: float = 1.0,
    bidirectional: bool = False,
    conj_sym: bool = True,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The arguments and results of `op.diagonal_ssm`, step by step, whatever the mode."""
    dtype = state_dtype(u.dtype)
    a, b, c = (x.to(dtype) for x in one_step(A, B, C, dt, discretization, rate, conj_sym))
    forth, back = c.unbind(0) if bidirectional else (c, None)
    inputs = u.to(dtype).unbind(1)
    bounds = [0, u.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()

    outputs, states = [], []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        if initial_state is None:
            x = u.new_zeros((u.shape[0], *a.shape), dtype=dtype)
        else:
            given = as_pairs(initial_state)
            x = given.clone() if cu_seqlens is None else given[i : i + 1].clone()
        read = []
        for u_t in inputs[start:stop]:
            x, y = advance(x, u_t, a, b, forth)
            read.append(y)
        states.append(x)
        if back is not None:
            after = torch.zeros_like(x)
            for t in range(stop - 1, start - 1, -1):
                read[t - start] = read[t - start] + real_dot(back, after)
                after, _ = advance(after, inputs[t], a, b, back)
        outputs += read
    y = torch.stack(outputs, 1) if outputs else u.to(dtype)  # T = 0
    return skip(y, u, D), torch.cat(states) if return_final_state else None


def advance(x: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The state [B,H,M,2] after input u [B,H], and what is read from it [B,H]."""
    x = mul(a, x) + b * u[..., None, None]
    return x, real_dot(c, x)


def real_dot(c: Tensor, x: Tensor) -> Tensor:
    """Re(sum over modes of c x)"""
    return (c[..., 0] * x[..., 0] - c[..., 1] * x[..., 1]).sum(-1)


def skip(y: Tensor, u: Tensor, D: Tensor | None) -> Tensor:
    """What was read plus D u, in the dtype of u."""
    if D is not None:
        y = y + D.to(y.dtype) * u.to(y.dtype)
    return y.to(u.dtype)
