# SPDX-License-Identifier: Apache-2.0
"""One step of the causal FSMN memory, for generation: a handful of torch ops, no operator layer."""

import torch
from torch import Tensor

from . import reference
from .op import Activation, check_inputs


def fsmn_memory_step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    activation: Activation | None = None,
    dilation: int = 1,
    residual: bool = True,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance `state` by one step: `fsmn_memory` with T = 1 and `causal`.

    Args:
        x: [B, 1, J*C]; scale: [B, 1]; weight, bias and the options as in `fsmn_memory`.
        state: [B, d*(W-1), J*C] as `fsmn_memory` returns it; left unchanged.

    Returns:
        y: [B, 1, C] in the dtype of x.
        new_state: [B, d*(W-1), J*C].

    Cost: the state is copied once; about ten small torch ops.

    Raises:
        ValueError, TypeError: as `fsmn_memory`, and for any T other than 1.
    """
    given = (x, weight, bias, scale, state, None)
    check_inputs(*given, activation, dilation, True, residual, state_name="state")
    if x.shape[1] != 1:
        raise ValueError(f"x must have shape (B, T, C) with T=1 in a step, got {tuple(x.shape)}")
    a = reference.activated(x, bias, scale, activation)
    rows = torch.cat((state, a), 1)
    y = reference.read(rows[:, ::dilation].mT, reference.taps(weight).to(a.dtype))[:, None]
    if residual:
        y = y + a
    return y.to(x.dtype), rows[:, 1:].contiguous()
