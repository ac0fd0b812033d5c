# SPDX-License-Identifier: Apache-2.0
"""The MIMO state-space model with a step size per token: products around `linear_scan`."""

from typing import Any

import torch
from torch import Tensor

from ..._core.dtypes import state_dtype
from ...linear_scan.op import linear_scan
from ..pairs import mul
from .arguments import project, read


def scan(
    u: Tensor,
    *,
    a: Tensor,
    gain: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
    backend: Any,
) -> tuple[Tensor, Tensor]:
    """y [B,T,H] and the last state [Nseq,P,2] for float64 a and gain [B,T,P,2], B and C.

    The gain multiplies what B projects, so that nothing has the shape [B,T,P,H].
    """
    dtype = state_dtype(u.dtype)
    x = u.to(dtype).contiguous()
    scanned: Any = linear_scan(
        _complex(a.to(dtype)),
        _complex(mul(gain.to(dtype), project(B.to(dtype), x))),
        reverse=reverse,
        initial_state=None if h0 is None else _complex(h0),
        return_final_state=True,
        cu_seqlens=cu_seqlens,
        backend=backend,
    )
    states, last = scanned
    y = read(C.to(dtype), torch.view_as_real(states))
    if D is not None:
        y = y + (D.to(dtype) * x.flatten(0, 1)).view(y.shape)
    return y.to(u.dtype), torch.view_as_real(last)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.contiguous())
