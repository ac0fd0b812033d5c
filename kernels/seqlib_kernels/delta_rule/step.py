# SPDX-License-Identifier: Apache-2.0
"""One token of the delta rule, for generation: a handful of torch ops, no operator layer."""

from torch import Tensor

from .._core.dtypes import state_dtype
from .op import check_inputs
from .reference import NORM_EPS


def delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    *,
    alpha: Tensor | None = None,
    scale: float | None = None,
    normalize_qk: bool = False,
    num_householder: int = 1,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance `state` by one token: `delta_rule` with T = 1.

    Args:
        q: [B, 1, H, K]; k: [B, n, H, K]; v: [B, n, HV, V]; beta: [B, n, HV];
            g or alpha: [B, 1, HV]; the options as in `delta_rule`.
        state: [B, HV, K, V] as `delta_rule` returns it; left unchanged.

    Returns:
        o: [B, 1, HV, V] in the dtype of q.
        new_state: [B, HV, K, V].

    Cost: 8 K V bytes per value head, and 3 + 2n small torch ops.

    Raises:
        ValueError, TypeError: as `delta_rule`, and for any T other than 1.
    """
    check_inputs(q, k, v, beta, g, alpha, num_householder, state, None, "state")
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    if T != 1:
        raise ValueError(f"q must have shape (B, T, H, K) with T=1 in a step, got {tuple(q.shape)}")
    dtype = state_dtype(q.dtype)
    out_dtype = q.dtype
    q, k, v, beta = q.to(dtype), k.to(dtype), v.to(dtype), beta.to(dtype)
    if normalize_qk:
        q = q * (q.square().sum(-1, keepdim=True) + NORM_EPS).rsqrt()
        k = k * (k.square().sum(-1, keepdim=True) + NORM_EPS).rsqrt()
    if HV != H:
        q, k = (x.repeat_interleave(HV // H, dim=2) for x in (q, k))
    S = state.reshape(B * HV, K, V)
    if g is not None:
        S = S * g.to(dtype).exp().reshape(-1, 1, 1)
    elif alpha is not None:
        S = S * alpha.to(dtype).reshape(-1, 1, 1)
    for j in range(num_householder):
        k_j = k[:, j].reshape(-1, K, 1)
        e_j = v[:, j].reshape(-1, 1, V) - k_j.mT @ S
        S = S.baddbmm(k_j, beta[:, j].reshape(-1, 1, 1) * e_j)
    factor = K**-0.5 if scale is None else scale
    o = (factor * q.reshape(-1, 1, K)) @ S
    return o.reshape(B, 1, HV, V).to(out_dtype), S.reshape(B, HV, K, V)
