# SPDX-License-Identifier: Apache-2.0
"""The definition of the MIMO state-space model: a loop over time, differentiable by autograd."""

from itertools import pairwise

import torch
from torch import Tensor

from ..._core.dtypes import state_dtype
from ..pairs import as_pairs, mul
from .arguments import one_step, project, read


def mimo_ssm(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    discretization: str = "zoh",
    rate: float | Tensor = 1.0,
    bidirectional: bool = False,
    conj_sym: bool = True,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The arguments and results of `op.mimo_ssm`, step by step."""
    dtype = state_dtype(u.dtype)
    parameters = one_step(A, B, C, dt, discretization, rate, conj_sym)
    a, gain, B, C = (x.to(dtype) for x in parameters)
    forth, back = C.chunk(2, 1) if bidirectional else (C, None)
    v = mul(gain, project(B, u.to(dtype)))
    a_T, v_T = a.expand_as(v).unbind(1), v.unbind(1)
    bounds = [0, u.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()

    outputs, states = [], []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        x = torch.zeros_like(v[:, 0]) if v_T else v.new_zeros(u.shape[0], *v.shape[2:])
        backwards = x
        if initial_state is not None:
            given = as_pairs(initial_state)
            x = given.clone() if cu_seqlens is None else given[i : i + 1].clone()
        y = []
        for t in range(start, stop):
            x = mul(a_T[t], x) + v_T[t]
            y.append(read(forth, x))
        states.append(x)
        if back is not None:
            for t in range(stop - 1, start - 1, -1):
                backwards = mul(a_T[t], backwards) + v_T[t]
                y[t - start] = y[t - start] + read(back, backwards)
        outputs += y
    y = torch.stack(outputs, 1) if outputs else u.to(dtype)  # T = 0
    if D is not None:
        y = y + D.to(dtype) * u.to(dtype)
    return y.to(u.dtype), torch.cat(states) if return_final_state else None
