# SPDX-License-Identifier: Apache-2.0
"""The public linear scan: documentation, checks, operators and their gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._core import alloc
from .._core.backend import Backend, resolve
from .._core.checks import check_same, check_shape, check_state
from .._core.dtypes import state_dtype
from .._core.ops import define_op
from .._core.varlen import check_boundaries, check_cu_seqlens, on_device
from . import reference


def linear_scan(
    a: Tensor,
    b: Tensor,
    *,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Scan h_t = a_t * h_{t-1} + b_t elementwise over time.

    Args:
        a: [B, T, D] multipliers: any sign, zeros included, real or complex.
        b: [B, T, D] inputs, of the dtype of `a`.
        reverse: scan from the last step to the first, h_t = a_t * h_{t+1} + b_t: the initial
            state then enters after the last step, and the final state is that of the first.
        initial_state: [N, D] state before the scan, zeros if None.
        return_final_state: return the state after the scan too.
        cu_seqlens: [N+1] int32 or int64 boundaries of N sequences packed into a batch of one, on
            the device of `b` or on the CPU; without them N = B. A sequence may be empty: its final
            state is its initial state. On a GPU, boundaries on the CPU save a wait: those on the
            GPU are read back once per tensor to be checked, those on the CPU are checked and
            copied without.
        backend: "triton", "cpu" or "reference"; None chooses by the device of the tensors.

    Returns:
        h [B, T, D] in the dtype of `b`, and the final state [N, D] or None.

    Dtypes: float64, float32, bfloat16, float16, complex128, complex64. States are float32, or
    the dtype of the inputs where that is wider or complex.

    Cost: one multiplication and one addition per element; memory traffic decides: a, b and h
    once forward, a, h, dh, da and db once backward. The backward pass keeps `a` and `h`.

    Raises:
        TypeError: an argument that is not a tensor or whose dtype is not supported.
        ValueError: shapes, dtypes or devices that disagree, or `cu_seqlens` that do not run
            from 0 to T without decreasing, or are on the CPU while a CUDA graph is captured.
        BackendUnavailableError: the backend asked for can't run on these tensors.

    Source: Martin & Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
    arXiv 1709.04057; multipliers in [-1, 1] as in Grazzi et al., arXiv 2411.12537.
    """
    sizes: dict[str, int] = {}
    check_shape("a", a, "B T D", sizes)
    check_shape("b", b, "B T D", sizes)
    check_same(("a", "b"), (a, b), complex_allowed=True)
    sizes["N"] = sizes["B"] if cu_seqlens is None else check_cu_seqlens(cu_seqlens, sizes["B"], b)
    if initial_state is not None:
        dtype = state_dtype(b.dtype)
        check_state("initial_state", initial_state, "N D", sizes, dtype, b)

    name = resolve(b, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, sizes["T"])
        return reference.linear_scan(
            a,
            b,
            reverse=reverse,
            initial_state=initial_state,
            return_final_state=return_final_state,
            cu_seqlens=cu_seqlens,
        )
    h, final_state = _LinearScan.apply(a, b, initial_state, cu_seqlens, reverse, name)
    return h, final_state if return_final_state else None


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        h0: Tensor | None,
        cu_seqlens: Tensor | None,
        reverse: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        h, hT = _forward(a, b, h0, cu_seqlens, reverse, backend)
        ctx.save_for_backward(a, h, h0, cu_seqlens)
        ctx.reverse, ctx.backend = reverse, backend
        return h, hT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dh: Tensor, dhT: Tensor) -> tuple[Tensor | None, ...]:
        a, h, h0, cu_seqlens = ctx.saved_tensors
        da, db, dh0 = _backward(a, h, h0, dh, dhT, cu_seqlens, ctx.reverse, ctx.backend)
        return da, db, dh0 if h0 is not None else None, None, None, None


def _kernels(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels

        return kernels
    from . import cpu

    return cpu


def _forward_impl(
    a: Tensor, b: Tensor, h0: Tensor | None, cu_seqlens: Tensor | None, reverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    check_boundaries(cu_seqlens, b.shape[1])
    cu_seqlens = on_device(cu_seqlens, b)
    tensors = (x if x is None else x.contiguous() for x in (a, b, h0, cu_seqlens))
    outputs = _forward_fake(a, b, h0, cu_seqlens, reverse, backend)
    _kernels(backend).forward(*tensors, *outputs, reverse)
    return outputs


def _forward_fake(
    a: Tensor, b: Tensor, h0: Tensor | None, cu_seqlens: Tensor | None, reverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    N = b.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return alloc.empty(b.shape, b), alloc.empty((N, b.shape[2]), b, state_dtype(b.dtype))


def _backward_impl(
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    dh: Tensor,
    dhT: Tensor,
    cu_seqlens: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check_boundaries(cu_seqlens, h.shape[1])
    cu_seqlens = on_device(cu_seqlens, h)
    tensors = (x if x is None else x.contiguous() for x in (a, h, h0, dh, dhT, cu_seqlens))
    outputs = _backward_fake(a, h, h0, dh, dhT, cu_seqlens, reverse, backend)
    _kernels(backend).backward(*tensors, *outputs, reverse)
    return outputs


def _backward_fake(
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    dh: Tensor,
    dhT: Tensor,
    cu_seqlens: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return alloc.empty(a.shape, a), alloc.empty(a.shape, a), alloc.empty(dhT.shape, dhT)


_forward = define_op(
    "linear_scan_fwd(Tensor a, Tensor b, Tensor? h0, Tensor? cu_seqlens, bool reverse, str backend)"
    " -> (Tensor h, Tensor hT)",
    _forward_impl,
    fake=_forward_fake,
)
_backward = define_op(
    "linear_scan_bwd(Tensor a, Tensor h, Tensor? h0, Tensor dh, Tensor dhT, Tensor? cu_seqlens,"
    " bool reverse, str backend) -> (Tensor da, Tensor db, Tensor dh0)",
    _backward_impl,
    fake=_backward_fake,
)
