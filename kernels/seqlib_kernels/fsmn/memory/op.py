# SPDX-License-Identifier: Apache-2.0
"""The public FSMN memory: documentation, checks, operators and their gradient."""

from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._core.backend import Backend, resolve
from ..._core.checks import check_parameter, check_same, check_shape, check_state
from ..._core.dtypes import state_dtype
from ..._core.ops import contiguous, define_op
from ..._core.varlen import check_boundaries, check_cu_seqlens, on_device
from . import reference
from .arguments import Options, Tensors

Activation = Literal["silu"]


def fsmn_memory(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    activation: Activation | None = None,
    dilation: int = 1,
    causal: bool = False,
    residual: bool = True,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Convolve `a = act(scale x + bias)` over time, every output channel over J inputs of its own.

    y[t,c] = (a[t,c] if residual) + sum over j < J, n < W of w[c,j,n] a[t + d (n - (W-1)/2), c J+j],
    or a[t - d (W-1-n), c J+j] if `causal`. Rows outside a sequence are zero, whatever act(bias)
    is: padding comes after the activation.

    Args:
        x: [B, T, J*C] inputs.
        weight: [C, W] taps, W odd unless `causal`; or [C, J, W] or [C, J, W, 1], as convolutions
            keep them.
        bias: [J*C] added to x; nothing by default.
        scale: [B, T] factor of every row of x; 1 by default.
        activation: "silu", or none.
        dilation: steps between two taps, d.
        causal: taps reach back only.
        residual: add a[t,c]; only for J = 1.
        initial_state: [N, d*(W-1), J*C] rows of a before the first step, zeros by default; N is
            B, or the number of packed sequences. Only if `causal`.
        return_final_state: also return the last rows of a. Only if `causal`.
        cu_seqlens: [N+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of x or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        y: [B, T, C] in the dtype of x.
        final_state: [N, d*(W-1), J*C], or None.

    x is float64, float32, bfloat16 or float16; weight, bias and scale have its dtype or float32.
    States and sums are float32, float64 for float64. Every input has a gradient. Cost per step
    and channel: J W multiply-adds and one activation forward, three times as much backward. Only
    the inputs are kept.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, an even W that isn't causal, J > 1
            with a residual, an unknown activation, a dilation below 1, a state without `causal`,
            boundaries out of order.
        TypeError: something that is not a tensor, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: Zhang et al., "Deep-FSMN for Large Vocabulary Continuous Speech Recognition", arXiv
    1803.05030; the convolution behind SiLU and its residual: MossFormer2, arXiv 2312.11825.
    """
    given = (x, weight, bias, scale, initial_state, cu_seqlens)
    check_inputs(*given, activation, dilation, causal, residual)
    if not causal and (initial_state is not None or return_final_state):
        raise ValueError(
            "initial_state and return_final_state must be left out with causal=False: taps that "
            "look ahead have no state to carry on from"
        )
    name = resolve(x, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, x.shape[1])
        return reference.fsmn_memory(
            x, weight, bias,
            scale=scale, activation=activation, dilation=dilation, causal=causal,
            residual=residual, initial_state=initial_state,
            return_final_state=return_final_state, cu_seqlens=cu_seqlens,
        )  # fmt: skip
    dtype = state_dtype(x.dtype)
    weight = reference.taps(weight).to(dtype)
    bias, scale = (None if p is None else p.to(dtype) for p in (bias, scale))
    tensors = (x, weight, bias, scale, initial_state)
    options = Options(activation == "silu", dilation, causal, residual)
    if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in tensors):
        y, final_state = _FsmnMemory.apply(*tensors, cu_seqlens, *options, name)
    else:
        y, final_state = _fwd(*tensors, cu_seqlens, *options, name)
    return y, final_state if return_final_state else None


def check_inputs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
    activation: str | None,
    dilation: int,
    causal: bool,
    residual: bool,
    state_name: str = "initial_state",
) -> None:
    """Hold the arguments to what `fsmn_memory` documents."""
    sizes: dict[str, int] = {}
    check_shape("x", x, "B T C", sizes)
    check_same(("x",), (x,))
    taps = _check_weight(weight, x, causal, residual)
    check_parameter("bias", bias, "C", sizes, "x", x)
    check_parameter("scale", scale, "B T", sizes, "x", x)
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, got {dilation}")
    sizes["N"] = sizes["B"]
    if cu_seqlens is not None:
        sizes["N"] = check_cu_seqlens(cu_seqlens, sizes["B"], x)
    if state is not None:
        sizes["S"] = dilation * (taps - 1)
        check_state(state_name, state, "N S C", sizes, state_dtype(x.dtype), x)


def _check_weight(weight: Tensor, x: Tensor, causal: bool, residual: bool) -> int:
    """Hold the weight to its layouts; returns the number of taps."""
    layouts = {2: "C W", 3: "C J W", 4: "C J W 1"}
    dims = layouts.get(weight.ndim if isinstance(weight, Tensor) else 0, "C W")
    sizes = {"1": 1}
    check_parameter("weight", weight, dims, sizes, "x", x)
    J, W = sizes.get("J", 1), sizes["W"]
    if J < 1 or sizes["C"] * J != x.shape[2]:
        raise ValueError(
            f"weight must have C outputs of J inputs each, with J*C={x.shape[2]}, the channels of "
            f"x, got {tuple(weight.shape)}"
        )
    if W < 1 or (W % 2 == 0 and not causal):
        raise ValueError(
            f"weight must have an odd number of taps W, or any from 1 with causal=True, got W={W}"
        )
    if residual and J != 1:
        raise ValueError(f"weight must have J=1 input per output with residual=True, got J={J}")
    return W


class _FsmnMemory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*arguments[: len(Tensors._fields)])
        ctx.options = arguments[len(Tensors._fields) :]
        return _fwd(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dhT: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        grads = _bwd(dy, dhT, *tensors, *ctx.options)
        given = (None if x is None else g for x, g in zip(tensors[:-1], grads, strict=True))
        return *given, None, None, None, None, None, None


# What both backends offer, in cpu.py and in kernels.py; every tensor they get is contiguous:
#   forward(given, options) -> (y, hT)
#   backward(dy, dhT, given, options) -> (dx, dweight, dbias, dscale, dh0)
# hT and dh0 have `given.state_shape(options)` in the state's dtype, as have dweight [C,J,W], dbias
# and dscale. Those of bias and scale are None where these are.


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _for_kernels(given: Tensors) -> Tensors:
    """The tensors as the kernels read them."""
    return Tensors(*contiguous(*given[:-1], on_device(given.cu_seqlens, given.x)))


def _split(arguments: tuple[Any, ...]) -> tuple[Tensors, Options, str]:
    n = len(Tensors._fields)
    return Tensors(*arguments[:n]), Options(*arguments[n:-1]), arguments[-1]


def _fwd_impl(*arguments: Any) -> tuple[Tensor, Tensor]:
    given, options, backend = _split(arguments)
    check_boundaries(given.cu_seqlens, given.x.shape[1])
    return _module(backend).forward(_for_kernels(given), options)


def _fwd_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    given, options, _backend = _split(arguments)
    y = given.x.new_empty((*given.x.shape[:2], given.weight.shape[0]))
    return y, given.weight.new_empty(given.state_shape(options))


def _bwd_impl(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    given, options, backend = _split(arguments)
    check_boundaries(given.cu_seqlens, given.x.shape[1])
    grads = _module(backend).backward(*contiguous(dy, dhT), _for_kernels(given), options)
    return tuple(given.weight.new_empty(0) if g is None else g for g in grads)


def _bwd_fake(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    given, _options, _backend = _split(arguments)
    inputs = (*given[:-2], dhT)  # the gradient of h0 has the shape of that of hT
    return tuple(given.weight.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)


_INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? h0, Tensor? cu_seqlens"
_OPTIONS = "bool silu, int dilation, bool causal, bool residual, str backend"

_fwd = define_op(
    f"fsmn_memory_fwd({_INPUTS}, {_OPTIONS}) -> (Tensor y, Tensor hT)", _fwd_impl, fake=_fwd_fake
)
_bwd = define_op(
    f"fsmn_memory_bwd(Tensor dy, Tensor dhT, {_INPUTS}, {_OPTIONS})"
    " -> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dscale, Tensor dh0)",
    _bwd_impl,
    fake=_bwd_fake,
)
