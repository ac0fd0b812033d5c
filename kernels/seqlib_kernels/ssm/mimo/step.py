# SPDX-License-Identifier: Apache-2.0
"""One token of the MIMO state-space model, for generation: a handful of torch ops."""

from torch import Tensor

from ..._core.dtypes import state_dtype
from ..discretise import Discretization
from ..memo import remembered
from ..pairs import mul
from .arguments import one_step, project, read
from .op import as_pairs_given, check_inputs


def mimo_ssm_step(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    discretization: Discretization = "zoh",
    rate: float | Tensor = 1.0,
    conj_sym: bool = True,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance `state` by one token: `mimo_ssm` with T = 1.

    Args:
        u: [B, 1, H]; rate: a number or [B, 1]; the parameters and options as in `mimo_ssm`.
        state: [B, P, 2] as `mimo_ssm` returns it; left unchanged.

    Returns:
        y: [B, 1, H] in the dtype of u.
        new_state: [B, P, 2].

    Cost: 8 H P operations per sequence. The parameters are discretised, in some twenty small torch
    ops, once as long as the same tensors are given unchanged, each time where gradients flow.

    Raises:
        ValueError, TypeError: as `mimo_ssm`, and for any T other than 1.
    """
    A, B, C, state = (as_pairs_given(x) for x in (A, B, C, state))
    check_inputs(u, A, B, C, dt, D, discretization, rate, False, state, None, "state")
    if u.shape[1] != 1:
        raise ValueError(f"u must have shape (B, T, H) with T=1 in a step, got {tuple(u.shape)}")
    dtype = state_dtype(u.dtype)
    parameters = remembered(one_step, (A, B, C, dt), discretization, rate, conj_sym)
    a, gain, B, C = (x.to(dtype) for x in parameters)
    x = u.to(dtype)
    states = mul(a, state[:, None]) + mul(gain, project(B, x))
    y = read(C, states)
    if D is not None:
        y = y + D.to(dtype) * x
    return y.to(u.dtype), states[:, 0]
