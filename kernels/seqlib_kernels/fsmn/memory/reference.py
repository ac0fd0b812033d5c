# SPDX-License-Identifier: Apache-2.0
"""The definition of the FSMN memory: a loop over time, differentiable by autograd."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad, silu

from ..._core.dtypes import state_dtype


def fsmn_memory(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    activation: str | None = None,
    dilation: int = 1,
    causal: bool = False,
    residual: bool = True,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The arguments and results of `op.fsmn_memory`, step by step. Cost: T small torch ops."""
    w = taps(weight).to(state_dtype(x.dtype))
    a = activated(x, bias, scale, activation)
    span = dilation * (w.shape[2] - 1)
    before = span if causal else span // 2
    bounds = [0, x.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()

    outputs, states = [], []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        rows = pad(a[:, start:stop], (0, 0, before, span - before))
        if initial_state is not None:
            h0 = initial_state if cu_seqlens is None else initial_state[i : i + 1]
            rows = torch.cat((h0, a[:, start:stop]), 1)
        if stop > start:
            windows = rows.unfold(1, span + 1, 1)[..., ::dilation]
            outputs += [read(window, w) for window in windows.unbind(1)]
        states.append(rows[:, rows.shape[1] - span :])
    y = torch.stack(outputs, 1) if outputs else a[..., : w.shape[0]]  # T = 0
    if residual:
        y = y + a
    return y.to(x.dtype), torch.cat(states) if return_final_state else None


def taps(weight: Tensor) -> Tensor:
    """The weight in any of its layouts as [C, J, W]."""
    return weight[:, None] if weight.ndim == 2 else weight.flatten(2)


def activated(
    x: Tensor, bias: Tensor | None, scale: Tensor | None, activation: str | None
) -> Tensor:
    """a = act(scale x + bias), in the state's dtype."""
    a = x.to(state_dtype(x.dtype))
    if scale is not None:
        a = scale.to(a.dtype)[..., None] * a
    if bias is not None:
        a = a + bias.to(a.dtype)
    return a if activation is None else silu(a)


def read(window: Tensor, w: Tensor) -> Tensor:
    """What the taps [C,J,W] read from the rows below them [B,J C,W]: [B,C]."""
    return (window.unflatten(1, w.shape[:2]) * w).sum((2, 3))
