# SPDX-License-Identifier: Apache-2.0
"""The public normalisation over sequences: documentation, checks, operators and their gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._core import alloc
from ..._core.backend import Backend, resolve
from ..._core.checks import check_parameter, check_same, check_shape
from ..._core.dtypes import state_dtype
from ..._core.ops import contiguous, define_op
from ..._core.varlen import check_boundaries, check_cu_seqlens, on_device
from . import reference


def sequence_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    per_channel: bool = False,
    eps: float,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, None]:
    """Bring every sequence to mean 0 and variance 1: `weight (x - mean) / sqrt(var + eps) + bias`.

    Mean and biased variance are those of a sequence over time and channels (group norm with one
    group, "global layer norm"), or over time for each channel (instance norm).

    Args:
        x: [B, T, C] inputs.
        weight, bias: [C] gain and offset of every channel.
        per_channel: statistics over time alone.
        eps: added to the variance.
        cu_seqlens: [N+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of x or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        y: [B, T, C] in the dtype of x.
        None: nothing is handed over from call to call.

    x is float64, float32, bfloat16 or float16; weight and bias have its dtype or float32. Sums
    are float32, float64 for float64, of distances from the means of tiles: a large mean costs no
    digits of the variance. Every input has a gradient. Cost: two reads of x and one write of y,
    two reads of x and dy and one write of dx backward. x and two numbers per sequence and channel
    are kept.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, an eps that is not positive,
            boundaries out of order.
        TypeError: something that is not a tensor, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: Wu and He, "Group Normalization", arXiv 1803.08494; Ulyanov et al., "Instance
    Normalization", arXiv 1607.08022; sums of tiles: Chan et al., 1983.
    """
    sizes: dict[str, int] = {}
    check_shape("x", x, "B T C", sizes)
    check_same(("x",), (x,))
    check_parameter("weight", weight, "C", sizes, "x", x)
    check_parameter("bias", bias, "C", sizes, "x", x)
    check_eps(eps)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, sizes["B"], x)
    name = resolve(x, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, x.shape[1])
        return reference.sequence_norm(
            x, weight, bias, per_channel=per_channel, eps=eps, cu_seqlens=cu_seqlens
        )
    dtype = state_dtype(x.dtype)
    tensors = (x, weight.to(dtype), bias.to(dtype))
    options = (cu_seqlens, per_channel, eps, name)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _SequenceNorm.apply(*tensors, *options), None
    return _fwd(*tensors, *options)[0], None


def check_eps(eps: float) -> None:
    """Hold what is added to a variance to: positive."""
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")


def count_sequences(x: Tensor, cu_seqlens: Tensor | None) -> int:
    """The number N of sequences in x [B, T, C]."""
    return x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


class _SequenceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight, _bias, cu_seqlens, ctx.per_channel, _eps, ctx.backend = arguments
        y, mean, rstd = _fwd(*arguments)
        ctx.save_for_backward(x, weight, mean, rstd, cu_seqlens)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        grads = _bwd(dy, *ctx.saved_tensors, ctx.per_channel, ctx.backend)
        return *grads, None, None, None, None


# What both backends offer, in cpu.py and in kernels.py, with contiguous tensors:
#   forward(x, weight, bias, cu_seqlens, y, mean, rstd, per_channel, eps)
#   backward(dy, x, weight, mean, rstd, cu_seqlens, dx, per_channel) -> (dweight, dbias)
# mean and rstd are [N,C] in the dtype of states, the same for all channels unless `per_channel`.


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _fwd_impl(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    cu_seqlens: Tensor | None,
    per_channel: bool,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check_boundaries(cu_seqlens, x.shape[1])
    given = contiguous(x, weight, bias, on_device(cu_seqlens, x))
    y = alloc.empty(x.shape, x)
    mean, rstd = (
        alloc.empty((count_sequences(x, cu_seqlens), x.shape[2]), weight) for _ in range(2)
    )
    _module(backend).forward(*given, y, mean, rstd, per_channel, eps)
    return y, mean, rstd


def _fwd_fake(x: Tensor, weight: Tensor, _bias: Tensor, cu_seqlens: Tensor | None, *_: Any) -> Any:
    shape = (count_sequences(x, cu_seqlens), x.shape[2])
    return x.new_empty(x.shape), weight.new_empty(shape), weight.new_empty(shape)


def _bwd_impl(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    cu_seqlens: Tensor | None,
    per_channel: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check_boundaries(cu_seqlens, x.shape[1])
    given = contiguous(dy, x, weight, mean, rstd, on_device(cu_seqlens, x))
    dx = alloc.empty(x.shape, x)
    return dx, *_module(backend).backward(*given, dx, per_channel)


def _bwd_fake(_dy: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


_fwd = define_op(
    "sequence_norm_fwd(Tensor x, Tensor weight, Tensor bias, Tensor? cu_seqlens, "
    "bool per_channel, float eps, str backend) -> (Tensor y, Tensor mean, Tensor rstd)",
    _fwd_impl,
    _fwd_fake,
)
_bwd = define_op(
    "sequence_norm_bwd(Tensor dy, Tensor x, Tensor weight, Tensor mean, Tensor rstd, "
    "Tensor? cu_seqlens, bool per_channel, str backend) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _bwd_impl,
    _bwd_fake,
)
