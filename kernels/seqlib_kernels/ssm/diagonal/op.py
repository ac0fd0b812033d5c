# SPDX-License-Identifier: Apache-2.0
"""The public diagonal state-space model: documentation, checks, operators and their gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._core.backend import Backend, resolve
from ..._core.checks import check_same, check_shape, check_state
from ..._core.dtypes import state_dtype
from ..._core.ops import contiguous, define_op
from ..._core.varlen import check_boundaries, check_cu_seqlens, on_device
from ..checks import check_diagonal, check_parameter
from ..discretise import Discretization, check_discretization, check_rate, check_steps
from ..pairs import as_pairs
from . import reference
from .arguments import Tensors, one_step
from .convolved import convolved
from .modes import MODES, Mode, choose


def diagonal_ssm(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    mode: Mode = "auto",
    discretization: Discretization = "zoh",
    rate: float = 1.0,
    bidirectional: bool = False,
    conj_sym: bool = True,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run x' = A x + B u, y = w Re(sum over modes of C x) + D u, discretised, for every channel.

    Complex numbers are pairs (real, imaginary) in a last axis of 2; a complex tensor without
    that axis serves as well.

    Args:
        u: [B, T, H] inputs.
        A: [S, M, 2] eigenvalues, with a real part below 0 for states that don't grow; S divides H
            and channel h reads copy h mod S.
        B: [S, M, 2] input weights, before discretisation.
        C: [H, M, 2] output weights, or [2, H, M, 2] of both directions if `bidirectional`.
        dt: [H] or [H, M] step sizes, positive and finite. On a GPU this is not checked, because
            the device would have to be waited for.
        D: [H] factor of the skip D u; no skip by default.
        mode: "recurrent" walks through time; "chunked" multiplies matrices inside chunks of time
            and hands states from chunk to chunk, as the Triton kernels always do; "convolution"
            convolves with the kernel of length T by FFT. "auto" takes the fastest.
        discretization: "zoh" or "bilinear", see `discretise`.
        rate: factor of all step sizes, such as 0.5 for inputs sampled twice as finely.
        bidirectional: y_t = sum_j K0_j u_{t-j} + sum_j K1_j u_{t+1+j} + D u_t, j from 0, with K0
            and K1 the kernels of C[0] and C[1].
        conj_sym: every mode stands for itself and its conjugate, w = 2; otherwise w = 1.
        initial_state: [Nseq, H, M, 2] state before the first token, zeros by default; Nseq is B,
            or the number of packed sequences.
        return_final_state: also return the state after the last token.
        cu_seqlens: [Nseq+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of u or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        y: [B, T, H] in the dtype of u.
        final_state: [Nseq, H, M, 2], or None.

    u is float64, float32, bfloat16 or float16; parameters have its dtype, float32 or float64, and
    are discretised in float64. States are float32, float64 for float64 u; sums as well. Every
    input has a gradient. Cost per token, channel and mode: 6 multiply-adds forward.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, S that does not divide H, step sizes
            or a rate that are not positive and finite, an unknown mode or discretization,
            boundaries out of order, states of both directions.
        TypeError: something that is not a tensor or number, or a dtype that is not supported.
        BackendUnavailableError: a backend that can't run here.

    Sources: Gu et al., "On the Parameterization and Initialization of Diagonal State Space
    Models", arXiv 2206.11893; Yu et al., "Robustifying State-space Models for Long Sequences via
    Approximate Diagonalization", arXiv 2310.01698.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    A, B, C, initial_state = (as_pairs(x) for x in (A, B, C, initial_state))
    check_inputs(u, A, B, C, dt, D, discretization, rate, bidirectional, initial_state, cu_seqlens)
    if bidirectional and (initial_state is not None or return_final_state):
        raise ValueError(
            "initial_state and return_final_state must be left out with bidirectional=True: "
            "two directions have no state to carry on from"
        )
    name = resolve(u, backend)
    options: dict[str, Any] = {"discretization": discretization, "rate": rate, "conj_sym": conj_sym}
    if name == "reference":
        check_boundaries(cu_seqlens, u.shape[1])
        return reference.diagonal_ssm(
            u, A, B, C, dt, D,
            **options, bidirectional=bidirectional, initial_state=initial_state,
            return_final_state=return_final_state, cu_seqlens=cu_seqlens,
        )  # fmt: skip
    a, b, c = one_step(A, B, C, dt, **options)
    skip = None if D is None else D.to(state_dtype(u.dtype))
    given = Tensors(u, a, b, c, skip, initial_state, cu_seqlens)
    engine = choose(mode, name, u, A.shape[1])
    if engine == "convolution":
        return convolved(given, return_final_state)
    if bidirectional:
        return _both_directions(given, engine), None
    y, final_state = _scan(given, False, engine)
    return y, final_state if return_final_state else None


def check_inputs(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None,
    discretization: str,
    rate: float,
    bidirectional: bool,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_name: str = "initial_state",
) -> None:
    """Hold the arguments to what `diagonal_ssm` documents."""
    sizes: dict[str, int] = {}
    check_shape("u", u, "B T H", sizes)
    check_same(("u",), (u,))
    check_diagonal(A, B, C, dt, sizes, bidirectional, u)
    if D is not None:
        check_parameter("D", D, "H", sizes, u)
    check_discretization(discretization)
    check_rate(rate)
    check_steps(dt)
    sizes["Nseq"] = sizes["B"]
    if cu_seqlens is not None:
        sizes["Nseq"] = check_cu_seqlens(cu_seqlens, sizes["B"], u)
    if state is not None:
        check_state(state_name, state, "Nseq H M 2", sizes, state_dtype(u.dtype), u)


def _both_directions(given: Tensors, engine: str) -> Tensor:
    u, c = given.u, given.c
    y, _ = _scan(given._replace(c=c[0]), False, engine)
    later = given._replace(u=_later(u, given.cu_seqlens), c=c[1], D=None)
    return y + _scan(later, True, engine)[0]


def _later(u: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """u[t+1] in the place of u[t], 0 at the end of every sequence."""
    if u.shape[1] == 0:
        return u
    later = torch.cat((u[:, 1:], torch.zeros_like(u[:, :1])), 1)
    if cu_seqlens is None:
        return later
    # The end before an empty sequence is that of the sequence before, and of the last one if
    # there is none before.
    ends = (cu_seqlens[1:].to(u.device, torch.int64) - 1) % u.shape[1]
    return later.index_fill(1, ends, 0)


def _scan(given: Tensors, reverse: bool, engine: str) -> tuple[Tensor, Tensor]:
    tensors = given[:-1]
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return _DiagonalSSM.apply(*given, reverse, engine)
    y, hT, _ = _fwd(*given, reverse, engine, False)
    return y, hT


class _DiagonalSSM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, hT, states = _fwd(*arguments, True)
        *tensors, reverse, engine = arguments
        ctx.save_for_backward(*tensors, states)
        ctx.options = (reverse, engine)
        return y, hT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dhT: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, cu_seqlens, states = ctx.saved_tensors
        grads = _bwd(dy, dhT, *tensors, cu_seqlens, states, *ctx.options)
        given = (None if x is None else g for x, g in zip(tensors, grads, strict=True))
        return *given, None, None, None


# What all engines offer, in cpu.py, in chunked.py (matrix products on CPUs) and in kernels.py;
# every tensor they get is contiguous:
#   forward(given, reverse, save) -> (y, hT, states)
#   backward(dy, dhT, given, states, reverse) -> (du, da, db, dc, dD, dh0)
# `reverse` walks from the last token to the first, within each sequence. y has the dtype of u, hT
# that of the state, da, db and dc are float64 [H,M,2]. The gradient of D is None where it is; that
# of h0 is always given. `states` are those of `given.states_shape(piece_length(u, M))` in the
# state's dtype, in whatever layout the engine likes, none without `save`.


def _module(engine: str) -> ModuleType:
    if engine == "triton":
        from . import kernels as module
    elif engine == "chunked":
        from . import chunked as module
    else:
        from . import cpu as module
    return module


def _piece_length(given: Tensors, engine: str) -> int:
    if engine == "triton":
        from .launch import piece_length
    elif engine == "chunked":
        from .chunked import piece_length
    else:
        from .cpu import piece_length
    return piece_length(given.u, given.a.shape[1])


def _for_kernels(given: Tensors) -> Tensors:
    """The tensors as the kernels read them."""
    return Tensors(*contiguous(*given[:-1], on_device(given.cu_seqlens, given.u)))


def _fwd_impl(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, reverse, engine, save = arguments
    given = Tensors(*tensors)
    check_boundaries(given.cu_seqlens, given.u.shape[1])
    return _module(engine).forward(_for_kernels(given), reverse, save)


def _fwd_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, _reverse, engine, save = arguments
    given = Tensors(*tensors)
    dtype = state_dtype(given.u.dtype)
    slots, H, M, _ = given.states_shape(_piece_length(given, engine))
    return (
        given.u.new_empty(given.u.shape),
        given.u.new_empty((given.sequences, H, M, 2), dtype=dtype),
        given.u.new_empty((slots if save else 0, H, M, 2), dtype=dtype),
    )


def _bwd_impl(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, states, reverse, engine = arguments
    given = Tensors(*tensors)
    check_boundaries(given.cu_seqlens, given.u.shape[1])
    grads = _module(engine).backward(*contiguous(dy, dhT), _for_kernels(given), states, reverse)
    return tuple(dhT.new_empty(0) if g is None else g for g in grads)


def _bwd_fake(dy: Tensor, dhT: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _states, _reverse, _engine = arguments
    u, a, b, c, D, *_ = tensors
    skip = dhT.new_empty(0 if D is None else D.shape)
    return (
        u.new_empty(u.shape),
        *(x.new_empty(x.shape) for x in (a, b, c)),
        skip,
        dhT.new_empty(dhT.shape),
    )


_INPUTS = "Tensor u, Tensor a, Tensor b, Tensor c, Tensor? D, Tensor? h0, Tensor? cu_seqlens"
_OPTIONS = "bool reverse, str engine"

_fwd = define_op(
    f"diagonal_ssm_fwd({_INPUTS}, {_OPTIONS}, bool save) -> (Tensor y, Tensor hT, Tensor states)",
    _fwd_impl,
    fake=_fwd_fake,
)
_bwd = define_op(
    f"diagonal_ssm_bwd(Tensor dy, Tensor dhT, {_INPUTS}, Tensor states, {_OPTIONS})"
    " -> (Tensor du, Tensor da, Tensor db, Tensor dc, Tensor dD, Tensor dh0)",
    _bwd_impl,
    fake=_bwd_fake,
)
