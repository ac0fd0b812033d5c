# SPDX-License-Identifier: Apache-2.0
"""One token of the state-space dual, for generation: a handful of torch ops, no operator layer."""

from torch import Tensor

from .._core.dtypes import state_dtype
from .arguments import Decay
from .op import check_inputs
from .reference import discretise


def ssd_step(
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
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance `state` by one token: `ssd` with T = 1, the same map of eigenvalues.

    Args:
        x: [B, 1, H, P]; dt or alpha: [B, 1, H]; B, C: [B, 1, G, N]; A, D, dt_bias: [H]; the
            options as in `ssd`.
        state: [B, H, P, N] as `ssd` returns it; left unchanged.

    Returns:
        y: [B, 1, H, P] in the dtype of x.
        new_state: [B, H, P, N].

    Cost: 8 P N bytes per head, and about ten small torch ops.

    Raises:
        ValueError, TypeError: as `ssd`, and for any T other than 1.
    """
    decay = Decay(dt, A, alpha, dt_bias, dt_softplus, negative_eigenvalues)
    check_inputs(x, B, C, D, decay, state, None, "state")
    batch, T, H, P = x.shape
    G, N = B.shape[2:]
    if T != 1:
        raise ValueError(f"x must have shape (B, T, H, P) with T=1 in a step, got {tuple(x.shape)}")
    dtype, out_dtype = state_dtype(x.dtype), x.dtype
    delta, a = discretise(decay, dtype)
    x = x.to(dtype)
    u = x if delta is None else delta[..., None] * x
    S = a.reshape(batch, G, H // G, 1, 1) * state.reshape(batch, G, H // G, P, N)
    S = S + u.reshape(batch, G, H // G, P, 1) * B.to(dtype).reshape(batch, G, 1, 1, N)
    y = (S @ C.to(dtype).reshape(batch, G, 1, N, 1)).reshape(x.shape)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    return y.to(out_dtype), S.reshape(state.shape)
