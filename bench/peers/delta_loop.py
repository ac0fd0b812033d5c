# SPDX-License-Identifier: Apache-2.0
"""The delta rule as a loop of batched matrix-vector products over time."""

import torch
from torch import Tensor

from ..contender import Contender, TorchCall
from .delta_inputs import decay_of, heads


def loop(
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
) -> Tensor:
    """One token after the other; autograd keeps the graph of all of them."""
    n, HV, dtype = num_householder, v.shape[2], v.dtype
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q, k = (heads(x, HV, normalize_qk)[..., None, :] for x in (q, k))  # rows [B,T,HV,1,K]
    v, decay = v.to(q.dtype)[..., None, :], decay_of(g, alpha)
    q_T, k_T, v_T = (factor * q).unbind(1), k.unbind(1), v.unbind(1)
    write_T = (beta[..., None, None] * k).mT.unbind(1)
    decay_T = None if decay is None else decay[..., None, None].unbind(1)
    S = q.new_zeros(q.shape[0], HV, q.shape[-1], v.shape[-1])
    outputs = []
    for t, q_t in enumerate(q_T):
        if decay_T is not None:
            S = decay_T[t] * S
        for j in range(n * t, n * t + n):
            S = S + write_T[j] * (v_T[j] - k_T[j] @ S)
        outputs.append(q_t @ S)
    return torch.stack(outputs, 1).squeeze(-2).to(dtype)


CONTENDERS = (
    Contender(
        name="torch loop",
        prepare=lambda problem: TorchCall(loop, problem),
        device="cpu",
        sequential=True,
    ),
)
