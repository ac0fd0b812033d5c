# SPDX-License-Identifier: Apache-2.0
"""The MIMO state-space model with a step size per token.

On CPUs it is an operator like the other one, elsewhere products around `linear_scan`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._core.dtypes import state_dtype
from ..._core.ops import contiguous, define_op
from ..._core.varlen import check_boundaries
from ...linear_scan.op import linear_scan
from ..discretise import discretise
from ..pairs import mul
from .arguments import Rate, Tensors, for_kernels, project, read


def scan(
    u: Tensor,
    *,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    rate: Tensor,
    discretization: str,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
    backend: Any,
) -> tuple[Tensor, Tensor]:
    """y [B,T,H] and the last states [Nseq,P,2] of what `continuous` gives and a rate [B,T]."""
    rate = rate.to(torch.float64).contiguous()
    if backend != "cpu":
        a, gain = discretise(A, dt * rate[..., None], discretization)
        return _composed(u, a, gain, B, C, D, h0, cu_seqlens, reverse, backend)
    z, B = dt[:, None] * A, dt[:, None, None] * B
    tensors = (u, z, B, C, D, h0, rate)
    options = (discretization == "zoh", reverse)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return _Variable.apply(*tensors, cu_seqlens, *options)
    y, hT, _ = _fwd(*tensors, cu_seqlens, *options, False)
    return y, hT


def _composed(
    u: Tensor,
    a: Tensor,
    gain: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    backend: Any,
) -> tuple[Tensor, Tensor]:
    """The same from float64 a and gain [B,T,P,2].

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


class _Variable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, hT, saved = _fwd(*arguments, True)
        *tensors, zoh, reverse = arguments
        ctx.save_for_backward(*tensors, *saved)
        ctx.options = (zoh, reverse)
        return y, hT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dhT: Tensor) -> tuple[Tensor | None, ...]:
        u, z, B, C, D, h0, rate, cu_seqlens, *saved = ctx.saved_tensors
        tensors = (u, z, B, C, D, h0, rate)
        grads = _bwd(dy, dhT, *tensors, cu_seqlens, saved, *ctx.options)
        given = (None if x is None else g for x, g in zip(tensors, grads, strict=True))
        return *given, None, None, None


def _fwd_impl(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    from . import cpu

    *tensors, rate, cu_seqlens, zoh, reverse, save = arguments
    given = Tensors._make([*tensors, cu_seqlens])
    check_boundaries(cu_seqlens, given.u.shape[1])
    return cpu.forward(for_kernels(given), reverse, save, Rate(rate.contiguous(), zoh))


def _fwd_fake(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    from .cpu import saved_shapes

    *tensors, _rate, cu_seqlens, _zoh, _reverse, save = arguments
    given = Tensors._make([*tensors, cu_seqlens])
    saved = saved_shapes(given) if save else []
    return (
        given.u.new_empty(given.u.shape),
        given.u.new_empty(given.state_shape, dtype=state_dtype(given.u.dtype)),
        [given.u.new_empty(shape, dtype=dtype) for shape, dtype in saved],
    )


def _bwd_impl(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    from . import cpu

    *tensors, rate, cu_seqlens, saved, zoh, reverse = arguments
    given = for_kernels(Tensors._make([*tensors, cu_seqlens]))
    check_boundaries(cu_seqlens, given.u.shape[1])
    dy, dhT = contiguous(dy, dhT)
    rates = Rate(rate.contiguous(), zoh)
    grads = cpu.backward(dy, dhT, given, list(saved), reverse, rates)
    return tuple(given.a.new_empty(0) if g is None else g for g in grads)


def _bwd_fake(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    u, z, B, C, D, _h0, rate, *_ = arguments
    skip = z.new_empty(0 if D is None else D.shape)
    like = (x.new_empty(x.shape) for x in (u, z, B, C))
    return *like, skip, dhT.new_empty(dhT.shape), rate.new_empty(rate.shape)


_INPUTS = (
    "Tensor u, Tensor z, Tensor B, Tensor C, Tensor? D, Tensor? h0, Tensor rate, Tensor? cu_seqlens"
)
_OPTIONS = "bool zoh, bool reverse"

_fwd = define_op(
    f"mimo_ssm_variable_fwd({_INPUTS}, {_OPTIONS}, bool save)"
    " -> (Tensor y, Tensor hT, Tensor[] saved)",
    _fwd_impl,
    fake=_fwd_fake,
)
_bwd = define_op(
    f"mimo_ssm_variable_bwd(Tensor dy, Tensor dhT, {_INPUTS}, Tensor[] saved, {_OPTIONS})"
    " -> (Tensor du, Tensor dz, Tensor dB, Tensor dC, Tensor dD, Tensor dh0, Tensor drate)",
    _bwd_impl,
    fake=_bwd_fake,
)
