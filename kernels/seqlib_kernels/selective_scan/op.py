# SPDX-License-Identifier: Apache-2.0
"""The public selective scan: documentation, checks, operators and their gradient."""

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
from .arguments import Tensors


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    negative_eigenvalues: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run `h = a h + Delta u B; y = (h . C + D u) silu(z)` along time, N states per channel.

    Delta = dt + dt_bias, put through softplus if asked for; a = exp(Delta A), or
    2 exp(Delta A) - 1 with `negative_eigenvalues`: for A < 0 and Delta > 0 that covers (-1, 1)
    instead of (0, 1), and a large Delta flips the sign of the state instead of forgetting it.
    Nothing is clipped: a positive Delta A makes the state grow.

    Args:
        u: [B, T, D] inputs.
        dt: [B, T, D] step sizes before bias and softplus. A step with dt = -inf under
            `dt_softplus` changes nothing: Delta = 0, a = 1, and the gradients that pass through
            its Delta are zero.
        A: [D, N] rates, negative for states that don't grow.
        B: [B, T, N], or [B, T, G, N]: what writes; channel d reads group d // (D/G).
        C: as `B`: what reads.
        D: [D] factor of the skip D u; no skip by default.
        z: [B, T, D] gate; no gate by default.
        dt_bias: [D] added to dt.
        dt_softplus: Delta = log(1 + exp(dt + dt_bias)), dt + dt_bias itself above 20.
        negative_eigenvalues: a = 2 exp(Delta A) - 1; Delta u B stays as it is.
        initial_state: [Nseq, D, N] state before the first token, zeros by default; Nseq is B, or
            the number of packed sequences.
        return_final_state: also return the state after the last token.
        cu_seqlens: [Nseq+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of u or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        y: [B, T, D] in the dtype of u.
        final_state: [Nseq, D, N], or None.

    u, dt, z, B and C share one dtype of float64, float32, bfloat16, float16; A, D and dt_bias
    have it or float32. States and sums are float32, float64 for float64. Every input has a
    gradient. Cost per token, channel and state: one exponential and 6 operations forward, another
    and about 21 backward. Nothing of shape [B, T, D, N] is kept.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, D not a multiple of G, boundaries
            out of order, or on the CPU while a CUDA graph is captured.
        TypeError: something that is not a tensor, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: Gu & Dao, "Mamba", arXiv 2312.00752; eigenvalues in [-1, 1] as in Grazzi et al.,
    arXiv 2411.12537.
    """
    check_inputs(Tensors(u, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens))
    name = resolve(u, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, u.shape[1])
        return reference.selective_scan(
            u, dt, A, B, C, D, z,
            dt_bias=dt_bias, dt_softplus=dt_softplus, negative_eigenvalues=negative_eigenvalues,
            initial_state=initial_state, return_final_state=return_final_state,
            cu_seqlens=cu_seqlens,
        )  # fmt: skip
    B, C = (x[:, :, None] if x.ndim == 3 else x for x in (B, C))
    dtype = state_dtype(u.dtype)
    D, dt_bias = (None if x is None else x.to(dtype) for x in (D, dt_bias))
    tensors = (u, dt, A.to(dtype), B, C, D, z, dt_bias, initial_state)
    options = (dt_softplus, negative_eigenvalues, name)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        y, final_state = _SelectiveScan.apply(*tensors, cu_seqlens, *options)
    else:
        y, final_state, _ = _fwd(*tensors, cu_seqlens, *options, False)
    return y, final_state if return_final_state else None


def check_inputs(given: Tensors, state_name: str = "initial_state") -> None:
    """Hold the arguments to what `selective_scan` documents."""
    u, dt, A, B, C, D, z, dt_bias, state, cu_seqlens = given
    sizes: dict[str, int] = {}
    check_shape("u", u, "B T D", sizes)
    check_shape("dt", dt, "B T D", sizes)
    check_shape("A", A, "D N", sizes)
    grouped = isinstance(B, Tensor) and B.ndim == 4
    for name, x in (("B", B), ("C", C)):
        check_shape(name, x, "B T G N" if grouped else "B T N", sizes)
    if grouped and (sizes["G"] < 1 or sizes["D"] % sizes["G"] != 0):
        raise ValueError(
            f"B must have a number of groups G that divides D={sizes['D']}, the channels of u, "
            f"got G={sizes['G']}"
        )
    if z is not None:
        check_shape("z", z, "B T D", sizes)
    check_same(("u", "dt", "B", "C", "z"), (u, dt, B, C, z))
    for name, x, dims in (("A", A, "D N"), ("D", D, "D"), ("dt_bias", dt_bias, "D")):
        check_parameter(name, x, dims, sizes, "u", u)
    sizes["Nseq"] = sizes["B"]
    if cu_seqlens is not None:
        sizes["Nseq"] = check_cu_seqlens(cu_seqlens, sizes["B"], u)
    if state is not None:
        check_state(state_name, state, "Nseq D N", sizes, state_dtype(u.dtype), u)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, hT, states = _fwd(*arguments, True)
        *tensors, dt_softplus, negative_eigenvalues, backend = arguments
        ctx.save_for_backward(*tensors, states)
        ctx.options = (dt_softplus, negative_eigenvalues, backend)
        return y, hT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dhT: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, cu_seqlens, states = ctx.saved_tensors
        grads = _bwd(dy, dhT, *tensors, cu_seqlens, states, *ctx.options)
        given = (None if x is None else g for x, g in zip(tensors, grads, strict=True))
        return *given, None, None, None, None


# What both backends offer, in cpu.py and in kernels.py; every tensor they get is contiguous, B and
# C are [B,T,G,N], and A, D, dt_bias have the state's dtype:
#   forward(given, dt_softplus, negative_eigenvalues, save) -> (y, hT, states)
#   backward(dy, dhT, given, states, dt_softplus, negative_eigenvalues)
#       -> (du, ddt, dA, dB, dC, dD, dz, ddt_bias, dh0)
# Gradients of D, z and dt_bias are None where these are; that of h0 is always given. `states` are
# those of `given.states_shape(piece_length(u))`, none without `save`.


def _for_kernels(given: Tensors) -> Tensors:
    """The tensors as the kernels read them."""
    return Tensors(*contiguous(*given[:-1], on_device(given.cu_seqlens, given.u)))


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _piece_length(u: Tensor, backend: str) -> int:
    if backend == "triton":
        from .launch import piece_length
    else:
        from .cpu import piece_length
    return piece_length(u)


def _fwd_impl(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, dt_softplus, negative_eigenvalues, backend, save = arguments
    given = Tensors(*tensors)
    check_boundaries(given.cu_seqlens, given.u.shape[1])
    options = (dt_softplus, negative_eigenvalues, save)
    return _module(backend).forward(_for_kernels(given), *options)


def _fwd_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, _softplus, _negative, backend, save = arguments
    given = Tensors(*tensors)
    slots, N, D = given.states_shape(_piece_length(given.u, backend))
    return (
        given.u.new_empty(given.u.shape),
        given.A.new_empty((given.sequences, D, N)),
        given.A.new_empty((slots if save else 0, N, D)),
    )


def _bwd_impl(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, states, dt_softplus, negative_eigenvalues, backend = arguments
    given = Tensors(*tensors)
    check_boundaries(given.cu_seqlens, given.u.shape[1])
    grads = _module(backend).backward(
        *contiguous(dy, dhT), _for_kernels(given), states, dt_softplus, negative_eigenvalues
    )
    return tuple(given.A.new_empty(0) if g is None else g for g in grads)


def _bwd_fake(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _states, _softplus, _negative, _backend = arguments
    given = Tensors(*tensors)
    inputs = (*given[:-2], dhT)  # the gradient of h0 has the shape of that of hT
    return tuple(given.A.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)


_INPUTS = (
    "Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? h0, Tensor? cu_seqlens"
)
_OPTIONS = "bool dt_softplus, bool negative_eigenvalues, str backend"

_fwd = define_op(
    f"selective_scan_fwd({_INPUTS}, {_OPTIONS}, bool save) -> (Tensor y, Tensor hT, Tensor states)",
    _fwd_impl,
    fake=_fwd_fake,
)
_bwd = define_op(
    f"selective_scan_bwd(Tensor dy, Tensor dhT, {_INPUTS}, Tensor states, {_OPTIONS})"
    " -> (Tensor du, Tensor ddt, Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor dz,"
    " Tensor ddt_bias, Tensor dh0)",
    _bwd_impl,
    fake=_bwd_fake,
)
