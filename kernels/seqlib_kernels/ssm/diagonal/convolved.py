# SPDX-License-Identifier: Apache-2.0
"""The diagonal state-space model as a convolution with its kernel, states by sums of powers."""

from itertools import pairwise

import torch
from torch import Tensor

from ..._core.dtypes import state_dtype
from ..convolution import convolve
from ..pairs import mul
from ..vandermonde import analyse, power, synthesise
from .arguments import Tensors


def convolved(given: Tensors, return_final_state: bool) -> tuple[Tensor, Tensor | None]:
    """y and the final state of `op.diagonal_ssm`, for c [H,M,2], or [2,H,M,2] of both directions.

    Packed sequences are taken one after the other, by values that a compiler does not know.
    """
    if given.cu_seqlens is None:
        y, final_state = _sequence(given, return_final_state)
    else:
        parts = []
        for i, (start, stop) in enumerate(pairwise(given.cu_seqlens.tolist())):
            h0 = None if given.h0 is None else given.h0[i : i + 1]
            part = given._replace(u=given.u[:, start:stop], h0=h0, cu_seqlens=None)
            parts.append(_sequence(part, return_final_state))
        outputs, states = zip(*parts, strict=True)
        y, final_state = torch.cat(outputs, 1), torch.cat(states) if return_final_state else None
    return y, final_state


def _sequence(given: Tensors, return_final_state: bool) -> tuple[Tensor, Tensor | None]:
    u, a, b, c, D, h0, _ = given
    T, dtype = u.shape[1], state_dtype(u.dtype)
    y = convolve(u, synthesise(a, mul(c if c.ndim == 4 else c[None], b), T, dtype))
    if h0 is not None:
        # y_t = Re(c a^{t+1} h0) is a kernel of its own for every sequence.
        y = y + synthesise(a, mul(mul(c, a), h0.to(torch.float64)), T, dtype).transpose(1, 2)
    if D is not None:
        y = y + D * u.to(dtype)
    return y.to(u.dtype), _final_state(given) if return_final_state else None


def _final_state(given: Tensors) -> Tensor:
    """a^T h0 + sum over t of a^{T-1-t} b u_t"""
    u, a, b, _, _, h0, _ = given
    dtype = state_dtype(u.dtype)
    x = mul(b, analyse(a, u.to(dtype).flip(1).transpose(1, 2)))
    if h0 is not None:
        x = x + mul(power(a, u.shape[1]), h0.to(torch.float64))
    return x.to(dtype)
