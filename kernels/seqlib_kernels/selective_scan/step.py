# SPDX-License-Identifier: Apache-2.0
"""One token of the selective scan, for generation: a handful of torch ops, no operator layer."""

from torch import Tensor

from .._core.discretise import step_sizes
from .._core.dtypes import state_dtype
from .arguments import Tensors
from .op import check_inputs
from .reference import by_channel, decay, finish


def selective_scan_step(
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
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance `state` by one token: `selective_scan` with T = 1, the same map of eigenvalues.

    Args:
        u, dt, z: [B, 1, D]; A: [D, N]; B, C: [B, 1, N] or [B, 1, G, N]; D, dt_bias: [D]; the
            options as in `selective_scan`.
        state: [B, D, N] as `selective_scan` returns it; left unchanged.

    Returns:
        y: [B, 1, D] in the dtype of u.
        new_state: [B, D, N].

    Cost: 8 N bytes per channel, and about ten small torch ops.

    Raises:
        ValueError, TypeError: as `selective_scan`, and for any T other than 1.
    """
    check_inputs(Tensors(u, dt, A, B, C, D, z, dt_bias, state, None), "state")
    if u.shape[1] != 1:
        raise ValueError(f"u must have shape (B, T, D) with T=1 in a step, got {tuple(u.shape)}")
    dtype = state_dtype(u.dtype)
    delta = step_sizes(dt, dt_bias, dt_softplus, dtype)[:, 0]
    B_t, C_t = (by_channel(x, u.shape[2])[:, 0].to(dtype) for x in (B, C))
    a = decay(delta, A.to(dtype), negative_eigenvalues)
    h = a * state + (delta * u[:, 0].to(dtype))[..., None] * B_t
    return finish((h * C_t).sum(-1)[:, None], u, D, z), h
