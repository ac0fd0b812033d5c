# SPDX-License-Identifier: Apache-2.0
"""The public MIMO state-space model: documentation, checks, operators and their gradient."""

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._core.backend import Backend, resolve
from ..._core.checks import check_same, check_shape, check_state
from ..._core.dtypes import state_dtype
from ..._core.ops import contiguous, define_op
from ..._core.varlen import check_boundaries, check_cu_seqlens
from ..checks import check_pairs, check_parameter
from ..discretise import Discretization, check_discretization, check_rate, check_steps, discretise
from ..pairs import as_pairs, mul
from . import reference, variable
from .arguments import Tensors, continuous, for_kernels


def mimo_ssm(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    discretization: Discretization = "zoh",
    rate: float | Tensor = 1.0,
    bidirectional: bool = False,
    conj_sym: bool = True,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run x' = A x + B u, y = w Re(C x) + D u, discretised: P complex states, each reads all of u.

    Complex numbers are pairs (real, imaginary) in a last axis of 2; a complex tensor without
    that axis serves as well.

    Args:
        u: [B, T, H] inputs.
        A: [P, 2] eigenvalues, with a real part below 0 for states that don't grow.
        B: [P, H, 2] input weights, before discretisation.
        C: [H, P, 2] output weights; [H, 2P, 2] if `bidirectional`, the forward states first.
        dt: [P] step sizes, positive and finite. On a GPU this is not checked, because the device
            would have to be waited for.
        D: [H] factor of the skip D u; no skip by default.
        discretization: "zoh" or "bilinear", see `discretise`.
        rate: factor of all step sizes, such as 0.5 for inputs sampled twice as finely; or a tensor
            [B, T], 0 or more, which makes the steps of token t rate_t dt. A token with rate 0
            changes no state. Negative rates are refused on CPUs only, as above.
        bidirectional: a second scan of the same inputs runs from the last token to the first,
            token t included in both; C reads the states of both.
        conj_sym: every state stands for itself and its conjugate, w = 2; otherwise w = 1.
        initial_state: [Nseq, P, 2] state before the first token, zeros by default; Nseq is B, or
            the number of packed sequences.
        return_final_state: also return the state after the last token.
        cu_seqlens: [Nseq+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of u or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        y: [B, T, H] in the dtype of u.
        final_state: [Nseq, P, 2], or None.

    u is float64, float32, bfloat16 or float16; parameters and a rate have its dtype, float32 or
    float64, and are discretised in float64. States are float32, float64 for float64 u; sums as
    well. Every input has a gradient. Cost: 8 H P operations per token forward, 20 H P backward;
    states are kept at the ends of chunks of tokens only, but on GPUs all of them where every token
    has a rate of its own.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, step sizes or a rate out of range, an
            unknown discretization, boundaries out of order, states of both directions.
        TypeError: something that is not a tensor or number, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: Smith et al., "Simplified State Space Layers for Sequence Modeling", arXiv 2208.04933;
    Yu et al., "Robustifying State-space Models for Long Sequences via Approximate
    Diagonalization", arXiv 2310.01698.
    """
    A, B, C, initial_state = (as_pairs_given(x) for x in (A, B, C, initial_state))
    check_inputs(u, A, B, C, dt, D, discretization, rate, bidirectional, initial_state, cu_seqlens)
    if bidirectional and (initial_state is not None or return_final_state):
        raise ValueError(
            "initial_state and return_final_state must be left out with bidirectional=True: "
            "two directions have no state to carry on from"
        )
    name = resolve(u, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, u.shape[1])
        return reference.mimo_ssm(
            u, A, B, C, dt, D,
            discretization=discretization, rate=rate, bidirectional=bidirectional,
            conj_sym=conj_sym, initial_state=initial_state,
            return_final_state=return_final_state, cu_seqlens=cu_seqlens,
        )  # fmt: skip
    A, B, C, dt = continuous(A, B, C, dt, conj_sym)
    D = None if D is None else D.to(torch.float64)
    shared = {"cu_seqlens": cu_seqlens, "backend": name}
    if isinstance(rate, Tensor):
        steps = {"A": A, "B": B, "dt": dt, "rate": rate, "discretization": discretization}
        scan = partial(variable.scan, **steps, **shared)
    else:
        a, gain = discretise(A, rate * dt, discretization)
        scan = partial(_scan, a=a, B=mul(gain[:, None], B), **shared)
    if bidirectional:
        forth, back = C.chunk(2, 1)
        inputs = u.to(state_dtype(u.dtype))  # the sum of both directions is rounded once
        y, _ = scan(inputs, C=forth, D=D)
        y_back, _ = scan(inputs, C=back, reverse=True)
        return (y + y_back).to(u.dtype), None
    y, final_state = scan(u, C=C, D=D, h0=initial_state)
    return y, final_state if return_final_state else None


def check_inputs(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None,
    discretization: str,
    rate: float | Tensor,
    bidirectional: bool,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_name: str = "initial_state",
) -> None:
    """Hold the arguments, pairs already, to what `mimo_ssm` documents."""
    sizes: dict[str, int] = {}
    check_shape("u", u, "B T H", sizes)
    check_same(("u",), (u,))
    check_pairs("A", A, "P", sizes, u)
    check_pairs("B", B, "P H", sizes, u)
    if bidirectional:
        sizes["2P"] = 2 * sizes["P"]
    check_pairs("C", C, "H 2P" if bidirectional else "H P", sizes, u)
    check_parameter("dt", dt, "P", sizes, u)
    if D is not None:
        check_parameter("D", D, "H", sizes, u)
    check_discretization(discretization)
    if isinstance(rate, Tensor):
        check_parameter("rate", rate, "B T", sizes, u)
        _check_rates(rate)
    else:
        check_rate(rate)
    check_steps(dt)
    sizes["Nseq"] = sizes["B"]
    if cu_seqlens is not None:
        sizes["Nseq"] = check_cu_seqlens(cu_seqlens, sizes["B"], u)
    if state is not None:
        check_state(state_name, state, "Nseq P 2", sizes, state_dtype(u.dtype), u)


def _check_rates(rate: Tensor) -> None:
    """Hold the rates of tokens to 0 or more, where `check_steps` would look."""
    if rate.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if (rate < 0).any():
        raise ValueError(f"rate must be 0 or more, got {rate.detach()[rate < 0][0].item()}")


def as_pairs_given(x: Any) -> Any:
    """`as_pairs` of what is a tensor; anything else is left to the checks."""
    return as_pairs(x) if isinstance(x, Tensor) else x


def _scan(
    u: Tensor,
    *,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
    backend: str,
) -> tuple[Tensor, Tensor]:
    given = Tensors(u, a, B, C, D, h0, cu_seqlens)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given[:-1]):
        return _MimoSSM.apply(*given, reverse, backend)
    y, hT, _ = _fwd(*given, reverse, backend, False)
    return y, hT


class _MimoSSM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, hT, saved = _fwd(*arguments, True)
        *tensors, reverse, backend = arguments
        ctx.save_for_backward(*tensors, *saved)
        ctx.options = (reverse, backend)
        return y, hT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dhT: Tensor) -> tuple[Tensor | None, ...]:
        u, a, B, C, D, h0, cu_seqlens, *saved = ctx.saved_tensors
        tensors = (u, a, B, C, D, h0)
        grads = _bwd(dy, dhT, *tensors, cu_seqlens, saved, *ctx.options)
        given = (None if x is None else g for x, g in zip(tensors, grads, strict=True))
        return *given, None, None, None


# What both backends offer, in cpu.py and in kernels.py; every tensor they get is contiguous:
#   forward(given, reverse, save) -> (y, hT, saved)
#   backward(dy, dhT, given, saved, reverse) -> (du, da, dB, dC, dD or None, dh0)
# `reverse` walks from the last token to the first, within each sequence: h0 enters after the last
# token, hT is the state of the first. y has the dtype of u, hT that of the state, and da [P,2],
# dB [P,H,2], dC [H,P,2] and dD [H] are float64. saved is a list of tensors for the backward pass,
# empty without `save`; their shapes and dtypes come from saved_shapes(given) in cpu.py and
# launch.py.


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _fwd_impl(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    *tensors, reverse, backend, save = arguments
    given = Tensors(*tensors)
    check_boundaries(given.cu_seqlens, given.u.shape[1])
    return _module(backend).forward(for_kernels(given), reverse, save)


def _fwd_fake(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    *tensors, _reverse, backend, save = arguments
    given = Tensors(*tensors)
    if backend == "triton":
        from .launch import saved_shapes
    else:
        from .cpu import saved_shapes
    saved = saved_shapes(given) if save else []
    return (
        given.u.new_empty(given.u.shape),
        given.u.new_empty(given.state_shape, dtype=state_dtype(given.u.dtype)),
        [given.u.new_empty(shape, dtype=dtype) for shape, dtype in saved],
    )


def _bwd_impl(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, saved, reverse, backend = arguments
    given = Tensors(*tensors)
    check_boundaries(given.cu_seqlens, given.u.shape[1])
    grads = _module(backend).backward(
        *contiguous(dy, dhT), for_kernels(given), list(saved), reverse
    )
    return tuple(given.a.new_empty(0) if g is None else g for g in grads)


def _bwd_fake(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    u, a, B, C, D, *_ = arguments
    skip = a.new_empty(0 if D is None else D.shape)
    return *(x.new_empty(x.shape) for x in (u, a, B, C)), skip, dhT.new_empty(dhT.shape)


_INPUTS = "Tensor u, Tensor a, Tensor B, Tensor C, Tensor? D, Tensor? h0, Tensor? cu_seqlens"
_OPTIONS = "bool reverse, str backend"

_fwd = define_op(
    f"mimo_ssm_fwd({_INPUTS}, {_OPTIONS}, bool save) -> (Tensor y, Tensor hT, Tensor[] saved)",
    _fwd_impl,
    fake=_fwd_fake,
)
_bwd = define_op(
    f"mimo_ssm_bwd(Tensor dy, Tensor dhT, {_INPUTS}, Tensor[] saved, {_OPTIONS})"
    " -> (Tensor du, Tensor da, Tensor dB, Tensor dC, Tensor dD, Tensor dh0)",
    _bwd_impl,
    fake=_bwd_fake,
)
