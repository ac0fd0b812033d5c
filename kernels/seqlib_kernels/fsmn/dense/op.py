# SPDX-License-Identifier: Apache-2.0
"""The public dense memory: documentation, checks, operators and their gradient."""

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
from ..norm.op import check_eps, count_sequences
from . import reference


def dense_fsmn_memory(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    slope: Tensor,
    *,
    eps: float = 1e-5,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, None]:
    """Convolve over time with ever wider gaps, every layer reading all before it: o_depth.

    With cat_0 = x, for i = 1 to depth, W taps and dilation d = 2^(i-1),

        a_i[t,c] = sum over j < i, n < W of w_i[c,j,n] cat_{i-1}[t + d (n - (W-1)/2), c i + j]
        o_i = PReLU(gain_i (a_i - mean) / sqrt(var + eps) + shift_i),   cat_i = [o_i, cat_{i-1}]

    where mean and biased variance are those of a sequence's channel over time, and rows outside
    the sequence are zero. Output channel c reads the i neighbours from c i on of the concatenation,
    as grouped convolutions do: with depth 2 the first half of the channels sees o_1 alone and the
    second half x alone. Published weights depend on it.

    Args:
        x: [B, T, C] inputs.
        weight: [C, depth (depth+1)/2, W] taps, W odd; those of layer i are
            weight[:, i (i-1)/2 : i (i+1)/2].
        gain, shift: [depth, C] affine map behind each norm.
        slope: [depth, C] slope of the PReLU below zero.
        eps: added to the variance.
        cu_seqlens: [N+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of x or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        o: [B, T, C] in the dtype of x.
        None: nothing is handed over from call to call.

    x is float64, float32, bfloat16 or float16; the others have its dtype or float32. Sums, and
    the a_i that are kept for the backward pass, are float32, float64 for float64. Every input has
    a gradient. Cost per step and channel: W depth (depth+1)/2 multiply-adds forward, twice as
    many backward, which makes the o_i anew.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, an even W, no layer, an eps that is
            not positive, boundaries out of order.
        TypeError: something that is not a tensor, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: the memory of MossFormer2, Zhao et al., arXiv 2312.11825; dense dilated convolutions:
    Huang et al., arXiv 1608.06993.
    """
    check_inputs(x, weight, gain, shift, slope)
    check_eps(eps)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, x.shape[0], x)
    name = resolve(x, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, x.shape[1])
        return reference.dense_fsmn_memory(
            x, weight, gain, shift, slope, eps=eps, cu_seqlens=cu_seqlens
        )
    dtype = state_dtype(x.dtype)
    tensors = (x, *(p.to(dtype) for p in (weight, gain, shift, slope)))
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _DenseFsmnMemory.apply(*tensors, cu_seqlens, eps, name), None
    return _fwd(*tensors, cu_seqlens, eps, name)[0], None


def check_inputs(x: Tensor, weight: Tensor, gain: Tensor, shift: Tensor, slope: Tensor) -> None:
    """Hold the tensors to what `dense_fsmn_memory` documents."""
    sizes: dict[str, int] = {}
    check_shape("x", x, "B T C", sizes)
    check_same(("x",), (x,))
    check_parameter("gain", gain, "depth C", sizes, "x", x)
    check_parameter("shift", shift, "depth C", sizes, "x", x)
    check_parameter("slope", slope, "depth C", sizes, "x", x)
    check_parameter("weight", weight, "C inputs W", sizes, "x", x)
    depth, W = sizes["depth"], sizes["W"]
    if depth < 1:
        raise ValueError(f"gain must have a row for each of at least 1 layer, got {depth}")
    if weight.shape[1] != reference.first_input(depth):
        raise ValueError(
            f"weight must have depth(depth+1)/2={reference.first_input(depth)} inputs per channel "
            f"for the depth={depth} rows of gain, got {tuple(weight.shape)}"
        )
    if W % 2 == 0:
        raise ValueError(f"weight must have an odd number of taps W, got W={W}")


class _DenseFsmnMemory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, _eps, ctx.backend = arguments
        y, convs, mean, rstd = _fwd(*arguments)
        ctx.save_for_backward(*tensors, convs, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return *_bwd(dy, *ctx.saved_tensors, ctx.backend), None, None, None


# What both backends offer, in cpu.py and in kernels.py, with contiguous tensors:
#   forward(x, weight, gain, shift, slope, cu_seqlens, y, convs, mean, rstd, eps)
#   backward(dy, x, weight, gain, shift, slope, cu_seqlens, convs, mean, rstd, dx)
#     -> (dweight, dgain, dshift, dslope)
# convs [depth,B,T,C] are the a_i; they, mean and rstd [depth,N,C] and all parameters with their
# gradients are in the dtype of states.


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _kept_shapes(x: Tensor, gain: Tensor, cu_seqlens: Tensor | None) -> tuple[tuple[int, ...], ...]:
    """The shapes of convs, mean and rstd."""
    depth, C = gain.shape
    statistics = (depth, count_sequences(x, cu_seqlens), C)
    return (depth, *x.shape), statistics, statistics


def _fwd_impl(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, eps, backend = arguments
    x, _weight, gain, _shift, _slope, cu_seqlens = tensors
    check_boundaries(cu_seqlens, x.shape[1])
    given = contiguous(*tensors[:-1], on_device(cu_seqlens, x))
    y = alloc.empty(x.shape, x)
    kept = tuple(alloc.empty(shape, gain) for shape in _kept_shapes(x, gain, cu_seqlens))
    _module(backend).forward(*given, y, *kept, eps)
    return y, *kept


def _fwd_fake(*arguments: Any) -> tuple[Tensor, ...]:
    x, _weight, gain, _shift, _slope, cu_seqlens = arguments[:6]
    kept = (gain.new_empty(shape) for shape in _kept_shapes(x, gain, cu_seqlens))
    return x.new_empty(x.shape), *kept


def _bwd_impl(dy: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, cu_seqlens, convs, mean, rstd, backend = arguments
    x = tensors[0]
    check_boundaries(cu_seqlens, x.shape[1])
    given = contiguous(dy, *tensors, on_device(cu_seqlens, x), convs, mean, rstd)
    dx = alloc.empty(x.shape, x)
    return dx, *_module(backend).backward(*given, dx)


def _bwd_fake(_dy: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[:5])


_INPUTS = "Tensor x, Tensor weight, Tensor gain, Tensor shift, Tensor slope, Tensor? cu_seqlens"

_fwd = define_op(
    f"dense_fsmn_memory_fwd({_INPUTS}, float eps, str backend) "
    "-> (Tensor y, Tensor convs, Tensor mean, Tensor rstd)",
    _fwd_impl,
    _fwd_fake,
)
_bwd = define_op(
    f"dense_fsmn_memory_bwd(Tensor dy, {_INPUTS}, Tensor convs, Tensor mean, Tensor rstd, "
    "str backend) -> (Tensor dx, Tensor dweight, Tensor dgain, Tensor dshift, Tensor dslope)",
    _bwd_impl,
    _bwd_fake,
)
