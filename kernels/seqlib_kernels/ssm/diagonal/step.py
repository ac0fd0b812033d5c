# SPDX-License-Identifier: Apache-2.0
"""One token of the diagonal state-space model, for generation: a handful of torch ops."""

import torch
from torch import Tensor

from ..discretise import Discretization
from ..memo import remembered
from ..pairs import as_pairs
from .arguments import one_step
from .op import check_inputs
from .reference import advance, skip


def diagonal_ssm_step(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    discretization: Discretization = "zoh",
    rate: float = 1.0,
    conj_sym: bool = True,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance `state` by one token: `diagonal_ssm` with T = 1.

    Args:
        u: [B, 1, H]; the parameters and options as in `diagonal_ssm`.
        state: [B, H, M, 2] as `diagonal_ssm` returns it; left unchanged.

    Returns:
        y: [B, 1, H] in the dtype of u.
        new_state: [B, H, M, 2] in the dtype of `state`.

    Arithmetic is float64, because a multiplier rounded to float32 would lose its phase over
    thousands of tokens. Cost: 16 M bytes and 8 M multiply-adds per channel; the parameters are
    discretised once as long as the same tensors are given unchanged, each time where gradients
    flow.

    Raises:
        ValueError, TypeError: as `diagonal_ssm`, and for any T other than 1.
    """
    A, B, C, state = (as_pairs(x) for x in (A, B, C, state))
    check_inputs(u, A, B, C, dt, D, discretization, rate, False, state, None, "state")
    if u.shape[1] != 1:
        raise ValueError(f"u must have shape (B, T, H) with T=1 in a step, got {tuple(u.shape)}")
    a, b, c = remembered(one_step, (A, B, C, dt), discretization, rate, conj_sym)
    x, y = advance(state.to(torch.float64), u[:, 0].to(torch.float64), a, b, c)
    return skip(y[:, None], u, D), x.to(state.dtype)
