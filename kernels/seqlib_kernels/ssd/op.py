# SPDX-License-Identifier: Apache-2.0
"""The public state-space dual: checks, operators, gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._core.backend import Backend, resolve
from .._core.checks import check_parameter, check_same, check_shape, check_state
from .._core.dtypes import state_dtype
from .._core.ops import contiguous, define_op
from .._core.varlen import check_boundaries, check_cu_seqlens, on_device
from . import reference
from .arguments import Decay, Tensors


def ssd(
    x: Tensor,
    dt: Tensor | None,
    A: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    alpha: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    negative_eigenvalues: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run `S = a S + (Delta x) B'; y = S C + D x` along time, one decay `a` per head.

    With `dt` and `A`, Delta = dt + dt_bias, put through softplus if asked for, and
    a = exp(Delta A), or 2 exp(Delta A) - 1 with `negative_eigenvalues`: for A < 0 that covers
    (-1, 1) instead of (0, 1). With `alpha` instead of both, a = alpha and Delta = 1. Decays may
    have any sign and be exactly zero; nothing is clipped, |a| > 1 makes the state grow.

    Args:
        x: [B, T, H, P] inputs.
        dt: [B, T, H] step sizes before bias and softplus, or None beside `alpha`. A step with
            dt = -inf under `dt_softplus` changes nothing: Delta = 0, a = 1, all gradients of its
            inputs through the state are zero.
        A: [H] rates, negative for decays below 1, or None beside `alpha`.
        B: [B, T, G, N] what writes into the state; head h reads group h // (H/G).
        C: [B, T, G, N] what reads from it.
        D: [H] factor of the skip D x; no skip by default.
        alpha: [B, T, H] the decay itself, instead of `dt` and `A`.
        dt_bias: [H] added to dt.
        dt_softplus: Delta = log(1 + exp(dt + dt_bias)).
        negative_eigenvalues: a = 2 exp(Delta A) - 1; Delta x B' stays as it is.
        initial_state: [Nseq, H, P, N] state before the first token, zeros by default; Nseq is B,
            or the number of packed sequences.
        return_final_state: also return the state after the last token.
        cu_seqlens: [Nseq+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of x or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        y: [B, T, H, P] in the dtype of x.
        final_state: [Nseq, H, P, N], or None.

    x, dt, B and C share one dtype of float64, float32, bfloat16, float16; A, D, dt_bias and
    alpha have it or float32. States and sums are float32, float64 for float64. Every input has
    a gradient. Cost: 4 P N operations per token and head forward, about 10 P N backward.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, H not a multiple of G, both or
            neither of `alpha` and `dt, A`, options of `dt` beside `alpha`, boundaries out of
            order, or on the CPU while a CUDA graph is captured.
        TypeError: something that is not a tensor, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: Dao & Gu, "Transformers are SSMs", arXiv 2405.21060; signed decays as in Grazzi et
    al., arXiv 2411.12537.
    """
    decay = Decay(dt, A, alpha, dt_bias, dt_softplus, negative_eigenvalues)
    check_inputs(x, B, C, D, decay, initial_state, cu_seqlens)
    name = resolve(x, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, x.shape[1])
        return reference.ssd(
            x, dt, A, B, C, D,
            alpha=alpha, dt_bias=dt_bias, dt_softplus=dt_softplus,
            negative_eigenvalues=negative_eigenvalues, initial_state=initial_state,
            return_final_state=return_final_state, cu_seqlens=cu_seqlens,
        )  # fmt: skip
    dtype = state_dtype(x.dtype)
    delta, a = reference.discretise(decay, dtype)
    D = None if D is None else D.to(dtype)
    tensors = (x, B, C, a, delta, D, initial_state)
    if torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in tensors):
        y, final_state = _SSD.apply(*tensors, cu_seqlens, name)
    else:
        y, final_state, _ = _fwd(*tensors, cu_seqlens, name, False)
    return y, final_state if return_final_state else None


def check_inputs(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    decay: Decay,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_name: str = "initial_state",
) -> None:
    """Hold the arguments to what `ssd` documents."""
    _check_choice(decay)
    sizes: dict[str, int] = {}
    check_shape("x", x, "B T H P", sizes)
    check_shape("B", B, "B T G N", sizes)
    check_shape("C", C, "B T G N", sizes)
    if sizes["H"] < 1:
        raise ValueError(f"x must have at least one head, got shape {tuple(x.shape)}")
    if sizes["G"] < 1 or sizes["H"] % sizes["G"] != 0:
        raise ValueError(
            f"B must have a number of groups G that divides H={sizes['H']}, the heads of x, "
            f"got G={sizes['G']}"
        )
    if decay.dt is not None:
        check_shape("dt", decay.dt, "B T H", sizes)
    check_same(("x", "dt", "B", "C"), (x, decay.dt, B, C))
    for name, z in (("A", decay.A), ("D", D), ("dt_bias", decay.dt_bias)):
        check_parameter(name, z, "H", sizes, "x", x)
    check_parameter("alpha", decay.alpha, "B T H", sizes, "x", x)
    sizes["Nseq"] = sizes["B"]
    if cu_seqlens is not None:
        sizes["Nseq"] = check_cu_seqlens(cu_seqlens, sizes["B"], x)
    if state is not None:
        check_state(state_name, state, "Nseq H P N", sizes, state_dtype(x.dtype), x)


def _check_choice(decay: Decay) -> None:
    """Either `alpha`, or both of `dt` and `A` and their options."""
    if decay.alpha is None:
        for name, z, other in (("dt", decay.dt, "A"), ("A", decay.A, "dt")):
            if z is None:
                raise ValueError(f"{name} must be given with {other} unless alpha is, got None")
        return
    for name, z in decay._asdict().items():
        if name != "alpha" and z is not None and z is not False:
            raise ValueError(f"alpha must stand alone, as the decay itself, got {name} beside it")


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, hT, saved = _fwd(*arguments, True)
        *tensors, ctx.backend = arguments
        ctx.save_for_backward(*tensors, *saved)
        return y, hT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dhT: Tensor) -> tuple[Tensor | None, ...]:
        x, B, C, a, delta, D, h0, cu_seqlens, *saved = ctx.saved_tensors
        tensors = (x, B, C, a, delta, D, h0)
        grads = _bwd(dy, dhT, *tensors, saved, cu_seqlens, ctx.backend)
        given = (None if z is None else g for z, g in zip(tensors, grads, strict=True))
        return *given, None, None


# What both backends offer, in cpu.py and in kernels.py; every tensor they get is contiguous:
#   forward(given, save) -> (y, hT, saved)
#   backward(dy, dhT, given, saved) -> (dx, dB, dC, da, ddelta or None, dD or None, dh0)
# saved is a list of tensors for the backward pass, empty without `save`. Their shapes and
# dtypes for tracing come from saved_shapes(given) in cpu.py and launch.py.


def _for_kernels(given: Tensors) -> Tensors:
    """The tensors as the kernels read them."""
    return Tensors(*contiguous(*given[:-1], on_device(given.cu_seqlens, given.x)))


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _fwd_impl(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    *tensors, backend, save = arguments
    given = Tensors(*tensors)
    check_boundaries(given.cu_seqlens, given.x.shape[1])
    return _module(backend).forward(_for_kernels(given), save)


def _fwd_fake(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    *tensors, backend, save = arguments
    given = Tensors(*tensors)
    if backend == "triton":
        from .launch import saved_shapes
    else:
        from .cpu import saved_shapes
    saved = saved_shapes(given) if save else []
    return (
        given.x.new_empty(given.x.shape),
        given.a.new_empty(given.state_shape),
        [given.x.new_empty(shape, dtype=dtype) for shape, dtype in saved],
    )


def _bwd_impl(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, saved, cu_seqlens, backend = arguments
    given = Tensors._make([*tensors, cu_seqlens])
    check_boundaries(cu_seqlens, given.x.shape[1])
    grads = _module(backend).backward(*contiguous(dy, dhT), _for_kernels(given), list(saved))
    return tuple(given.a.new_empty(0) if g is None else g for g in grads)


def _bwd_fake(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _h0, _saved, _cu_seqlens, _backend = arguments
    inputs = (*tensors, dhT)  # the gradient of h0 has the shape of that of hT
    return tuple(dhT.new_empty(0) if z is None else z.new_empty(z.shape) for z in inputs)


_INPUTS = "Tensor x, Tensor B, Tensor C, Tensor a, Tensor? delta, Tensor? D, Tensor? h0"

_fwd = define_op(
    f"ssd_fwd({_INPUTS}, Tensor? cu_seqlens, str backend, bool save) "
    "-> (Tensor y, Tensor hT, Tensor[] saved)",
    _fwd_impl,
    _fwd_fake,
)
_bwd = define_op(
    f"ssd_bwd(Tensor dy, Tensor dhT, {_INPUTS}, Tensor[] saved, Tensor? cu_seqlens, str backend) "
    "-> (Tensor dx, Tensor dB, Tensor dC, Tensor da, Tensor ddelta, Tensor dD, Tensor dh0)",
    _bwd_impl,
    _bwd_fake,
)
