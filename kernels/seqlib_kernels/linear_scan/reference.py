# SPDX-License-Identifier: Apache-2.0
"""The definition of the linear scan: a plain loop over time."""

from itertools import pairwise

import torch
from torch import Tensor

from .._core.dtypes import state_dtype


def linear_scan(
    a: Tensor,
    b: Tensor,
    *,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`linear_scan` as it is defined; the arguments are those of the op and are not checked."""
    bounds = None if cu_seqlens is None else cu_seqlens.tolist()
    N = b.shape[0] if bounds is None else len(bounds) - 1
    h0 = initial_state
    if h0 is None:
        h0 = b.new_zeros(N, b.shape[2], dtype=state_dtype(b.dtype))
    if bounds is None:
        h, final_state = _scan(a, b, h0, reverse)
    else:
        pieces = [
            _scan(a[:, i:j], b[:, i:j], h0[n : n + 1], reverse)
            for n, (i, j) in enumerate(pairwise(bounds))
        ]
        h = torch.cat([piece[0] for piece in pieces], 1)
        final_state = torch.cat([piece[1] for piece in pieces], 0)
    return h, final_state if return_final_state else None


def _scan(a: Tensor, b: Tensor, h: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    steps = list(zip(a.to(h.dtype).unbind(1), b.to(h.dtype).unbind(1), strict=True))
    outputs = []
    for a_t, b_t in reversed(steps) if reverse else steps:
        h = a_t * h + b_t
        outputs.append(h)
    if reverse:
        outputs.reverse()
    return torch.stack(outputs, 1).to(b.dtype) if outputs else b.clone(), h.clone()
