# SPDX-License-Identifier: Apache-2.0
"""The public delta rule: checks, operators, gradient."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._core.backend import resolve
from .._core.checks import check_parameter, check_same, check_shape, check_state
from .._core.dtypes import state_dtype
from .._core.ops import contiguous, define_op
from .._core.varlen import check_boundaries, check_cu_seqlens, on_device
from . import reference


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    *,
    alpha: Tensor | None = None,
    scale: float | None = None,
    normalize_qk: bool = False,
    num_householder: int = 1,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run `S = a S; n times: S = S + beta k (v - S'k)'; o = scale S'q` along time.

    Every step first decays the state, then replaces what it holds under each of its n keys.
    With |a| <= 1, |k| = 1 and beta in [0, 2] no eigenvalue of a step leaves [-1, 1] and the
    state stays bounded; beta > 1 gives negative ones. Nothing is clipped or normalised unless
    asked for: keys with beta |k|^2 > 2 or decays beyond 1 (a positive `g`) make the state grow.

    Args:
        q: [B, T, H, K] queries.
        k: [B, n*T, H, K] keys, the n rows of token t at n*t ... n*t + n - 1; on a GPU K <= 256.
        v: [B, n*T, HV, V] values; HV is a multiple of H, head h reads q, k of head h // (HV/H).
        beta: [B, n*T, HV] strength of each update.
        g: [B, T, HV] logarithm of the decay, a = exp(g); not beside `alpha`.
        alpha: [B, T, HV] the decay itself, a = alpha, of any sign and zero where wanted.
        scale: factor of the output, K**-0.5 by default.
        normalize_qk: replace each row x of q and k by x * rsqrt(sum(x*x) + 1e-6).
        num_householder: n, the number of updates per token (DeltaProduct); on a GPU at most 64.
        initial_state: [N, HV, K, V] state before the first token, zeros by default; N is B, or
            the number of packed sequences.
        return_final_state: also return the state after the last token.
        cu_seqlens: [N+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of q or on the CPU. A sequence may be empty: its final state is its initial
            state. On a GPU, boundaries on the CPU save a wait: those on the GPU are read back
            once per tensor to be checked, those on the CPU are checked and copied without.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        o: [B, T, HV, V] in the dtype of q.
        final_state: [N, HV, K, V], or None.

    q, k and v share one dtype of float64, float32, bfloat16, float16; beta, g and alpha have
    it or float32. States and sums are float32, float64 for float64. Every input has a gradient.
    Cost: 6 n K V operations per token and value head forward, about 20 n K V backward.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, HV not a multiple of H, both `g`
            and `alpha`, `num_householder` below 1, boundaries out of order, or on the CPU
            while a CUDA graph is captured.
        TypeError: something that is not a tensor, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: arXiv 2406.06484 (DeltaNet), 2412.06464 (gated), 2502.10297 (products),
    2411.12537 (eigenvalues in [-1, 1]).
    """
    check_inputs(q, k, v, beta, g, alpha, num_householder, initial_state, cu_seqlens)
    name = resolve(q, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, q.shape[1])
        return reference.delta_rule(
            q, k, v, beta, g,
            alpha=alpha, scale=scale, normalize_qk=normalize_qk, num_householder=num_householder,
            initial_state=initial_state, return_final_state=return_final_state,
            cu_seqlens=cu_seqlens,
        )  # fmt: skip
    dtype = state_dtype(q.dtype)
    beta = beta.to(dtype)
    decay = g.to(dtype).exp() if g is not None else None if alpha is None else alpha.to(dtype)
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    tensors = (q, k, v, beta, decay, initial_state)
    options = (scale, normalize_qk, num_householder, name)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        o, final_state = _DeltaRule.apply(*tensors, cu_seqlens, *options)
    else:
        o, final_state, _ = _fwd(*tensors, cu_seqlens, *options, False)
    return o, final_state if return_final_state else None


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    alpha: Tensor | None,
    num_householder: int,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_name: str = "initial_state",
) -> None:
    """Hold the arguments to what `delta_rule` documents."""
    if num_householder < 1:
        raise ValueError(f"num_householder must be at least 1, got {num_householder}")
    sizes: dict[str, int] = {}
    check_shape("q", q, "B T H K", sizes)
    sizes["n*T"] = num_householder * sizes["T"]
    check_shape("k", k, "B n*T H K", sizes)
    check_shape("v", v, "B n*T HV V", sizes)
    check_same(("q", "k", "v"), (q, k, v))
    if sizes["H"] < 1 or sizes["HV"] % sizes["H"] != 0:
        raise ValueError(
            f"v must have a number of heads HV that is a multiple of H={sizes['H']}, the heads "
            f"of q and k, got HV={sizes['HV']}"
        )
    if g is not None and alpha is not None:
        raise ValueError("g and alpha both give the decay; pass one of them, got both")
    check_parameter("beta", beta, "B n*T HV", sizes, "q", q)
    for name, x in (("g", g), ("alpha", alpha)):
        check_parameter(name, x, "B T HV", sizes, "q", q)
    sizes["N"] = sizes["B"]
    if cu_seqlens is not None:
        sizes["N"] = check_cu_seqlens(cu_seqlens, sizes["B"], q)
    if state is not None:
        check_state(state_name, state, "N HV K V", sizes, state_dtype(q.dtype), q)


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, q, k, v, beta, decay, h0, cu_seqlens, scale, normalize_qk, num_householder, backend
    ):
        ctx.options = (scale, normalize_qk, num_householder, backend)
        o, hT, saved = _fwd(q, k, v, beta, decay, h0, cu_seqlens, *ctx.options, True)
        ctx.save_for_backward(q, k, v, beta, decay, h0, cu_seqlens, *saved)
        return o, hT

    @staticmethod
    @once_differentiable
    def backward(ctx, do, dhT):
        q, k, v, beta, decay, h0, cu_seqlens, *saved = ctx.saved_tensors
        grads = _bwd(do, dhT, q, k, v, beta, decay, h0, saved, cu_seqlens, *ctx.options)
        dq, dk, dv, dbeta, ddecay, dh0 = grads
        ddecay = None if decay is None else ddecay
        dh0 = None if h0 is None else dh0
        return dq, dk, dv, dbeta, ddecay, dh0, None, None, None, None, None


# What both backends offer, in cpu.py and in kernels.py; every tensor they get is contiguous:
#   delta_rule_fwd(q, k, v, beta, decay, h0, cu_seqlens, scale, normalize_qk, num_householder,
#                  save) -> (o, hT, saved)
#   delta_rule_bwd(do, dhT, q, k, v, beta, decay, h0, saved, cu_seqlens, scale, normalize_qk,
#                  num_householder) -> (dq, dk, dv, dbeta, ddecay or None, dh0)
# beta [B,n*T,HV] and decay [B,T,HV] (or None) are in the state's dtype, h0 None means zeros.
# saved is a list of tensors for the backward pass, empty without `save`. Their shapes and
# dtypes for tracing come from saved_shapes(q, v, num_householder, N) in cpu.py and launch.py.


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _fwd_impl(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    normalize_qk: bool,
    num_householder: int,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    check_boundaries(cu_seqlens, q.shape[1])
    tensors = contiguous(q, k, v, beta, decay, h0, on_device(cu_seqlens, q))
    return _module(backend).delta_rule_fwd(*tensors, scale, normalize_qk, num_householder, save)


def _fwd_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    normalize_qk: bool,
    num_householder: int,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    if backend == "triton":
        from .launch import saved_shapes
    else:
        from .cpu import saved_shapes
    B, T, _, K = q.shape
    HV, V = v.shape[2:]
    N = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    saved = saved_shapes(q, v, num_householder, N) if save else []
    return (
        q.new_empty((B, T, HV, V)),
        q.new_empty((N, HV, K, V), dtype=state_dtype(q.dtype)),
        [q.new_empty(shape, dtype=dtype) for shape, dtype in saved],
    )


def _bwd_impl(
    do: Tensor,
    dhT: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    saved: Sequence[Tensor],
    cu_seqlens: Tensor | None,
    scale: float,
    normalize_qk: bool,
    num_householder: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    *tensors, cu_seqlens = contiguous(do, dhT, q, k, v, beta, decay, h0, on_device(cu_seqlens, q))
    dq, dk, dv, dbeta, ddecay, dh0 = _module(backend).delta_rule_bwd(
        *tensors, list(saved), cu_seqlens, scale, normalize_qk, num_householder
    )
    ddecay = beta.new_empty(0) if ddecay is None else ddecay
    return dq, dk, dv, dbeta, ddecay, dh0


def _bwd_fake(
    do: Tensor,
    dhT: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    saved: Sequence[Tensor],
    cu_seqlens: Tensor | None,
    scale: float,
    normalize_qk: bool,
    num_householder: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    ddecay = beta.new_empty(0 if decay is None else decay.shape)
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        beta.new_empty(beta.shape),
        ddecay,
        dhT.new_empty(dhT.shape),
    )


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? decay, Tensor? h0"
_OPTIONS = "float scale, bool normalize_qk, int num_householder, str backend"

_fwd = define_op(
    f"delta_rule_fwd({_INPUTS}, Tensor? cu_seqlens, {_OPTIONS}, bool save) "
    "-> (Tensor o, Tensor hT, Tensor[] saved)",
    _fwd_impl,
    _fwd_fake,
)
_bwd = define_op(
    f"delta_rule_bwd(Tensor do, Tensor dhT, {_INPUTS}, Tensor[] saved, Tensor? cu_seqlens, "
    f"{_OPTIONS}) -> (Tensor dq, Tensor dk, Tensor dv, Tensor dbeta, Tensor ddecay, Tensor dh0)",
    _bwd_impl,
    _bwd_fake,
)
