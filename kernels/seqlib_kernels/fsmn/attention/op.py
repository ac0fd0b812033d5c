# SPDX-License-Identifier: Apache-2.0
"""The public joint attention: checks, operators, gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._core import alloc
from ..._core.backend import Backend, resolve
from ..._core.checks import check_parameter, check_same, check_shape
from ..._core.chunks import slots
from ..._core.dtypes import state_dtype
from ..._core.ops import contiguous, define_op
from ..._core.varlen import check_boundaries, check_cu_seqlens, on_device
from . import reference

NORMALIZE = ("frames", "group")


def joint_attention(
    z: Tensor,
    qk: Tensor,
    gamma: Tensor,
    beta: Tensor,
    freqs: Tensor,
    *,
    group_size: int,
    causal: bool = False,
    normalize: str = "frames",
    keep: Tensor | None = None,
    keep_scale: float = 1.0,
    cu_seqlens: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, None]:
    """Attend within groups of frames and linearly to all frames, then gate: `(A_u v) s(A_v u)`.

    Four heads `rotate(gamma_i qk + beta_i)`, with i in the order quad_q, lin_q, quad_k, lin_k,
    share qk. A sequence is cut into groups of G frames from its frame 0; a short last group is
    divided by G too. With Z = [v u], P = relu(Qq Kq' / G)^2 within a group and M = Lk' Z / frames,

        A = P Z + Lq M,   o = (A_u * v) * sigmoid(A_v * u)

    Args:
        z: [B, T, 2E], v = z[..., :E] and u = z[..., E:].
        qk: [B, T, S] what the heads are made of.
        gamma, beta: [4, S] gain and offset of each head.
        freqs: [R/2] float32 or float64, R <= S: channels 2j and 2j+1 of a head turn by the angle
            frame * freqs[j], frames counted within the sequence; channels from R on don't. On the
            device of z or on the CPU. It has no gradient.
        group_size: G.
        causal: P reaches no later frame of the group and M only the groups before it.
        normalize: what a causal M is divided by: the "frames" in those groups, or G ("group").
        keep: [B, T, G] bool, which columns of its own group a row of P keeps; all by default.
        keep_scale: factor of what is kept, 1 / (1 - p) for dropout.
        cu_seqlens: [N+1] int32 or int64 boundaries of sequences packed into batch 1, on the
            device of z or on the CPU, which saves a GPU a wait. A sequence may be empty.
        backend: "triton", "cpu" or "reference" instead of the one that fits the device.

    Returns:
        o: [B, T, E] in the dtype of z.
        None: nothing is handed over from call to call.

    z and qk share one dtype of float64, float32, bfloat16, float16; gamma and beta have it or
    float32. Products and sums are float32, float64 for float64; angles are never less exact than
    float32. Cost: 2 (G S + 2 E G + 4 E S) operations per frame forward; the backward pass makes
    A anew.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, an odd last size of z, R > S, a
            group_size below 1, an unknown `normalize` or one without `causal`, a keep_scale that
            is not positive or not 1 without `keep`, boundaries out of order.
        TypeError: an unsupported dtype, float64 on a GPU, or a non-tensor.
        BackendUnavailableError: the backend asked for can't run here.

    Source: Zhao and Ma, "MossFormer", arXiv 2302.11824; Hua et al., arXiv 2202.10447.
    """
    check_normalize(normalize, causal)
    check_inputs(z, qk, gamma, beta, freqs, group_size)
    _check_keep(keep, keep_scale, z, group_size)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, z.shape[0], z)
    name = resolve(z, backend)
    if name == "reference":
        check_boundaries(cu_seqlens, z.shape[1])
        return reference.joint_attention(
            z, qk, gamma, beta, freqs.to(z.device), group_size=group_size, causal=causal,
            normalize=normalize, keep=keep, keep_scale=keep_scale, cu_seqlens=cu_seqlens,
        )  # fmt: skip
    dtype = state_dtype(z.dtype)
    tensors = (z, qk, gamma.to(dtype), beta.to(dtype))
    others = (freqs.detach(), keep, cu_seqlens)
    options = (group_size, causal, normalize == "group", keep_scale, name)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return _JointAttention.apply(*tensors, *others, *options), None
    return _fwd(*tensors, *others, *options)[0], None


def check_inputs(
    z: Tensor, qk: Tensor, gamma: Tensor, beta: Tensor, freqs: Tensor, group_size: int
) -> None:
    """Hold the arguments that a step has too to what `joint_attention` documents."""
    sizes: dict[str, int] = {}
    check_shape("z", z, "B T 2E", sizes)
    check_shape("qk", qk, "B T S", sizes)
    if sizes["2E"] % 2 != 0:
        raise ValueError(f"z must have an even last size, v and u, got shape {tuple(z.shape)}")
    check_same(("z", "qk"), (z, qk))
    for name, x in (("gamma", gamma), ("beta", beta)):
        check_parameter(name, x, "heads S", sizes, "z", z)
        if x.shape[0] != 4:
            raise ValueError(f"{name} must have 4 rows, one per head, got shape {tuple(x.shape)}")
    check_shape("freqs", freqs, "R/2", sizes)
    if freqs.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"freqs must be float32 or float64, got {freqs.dtype}")
    if freqs.device not in (z.device, torch.device("cpu")):
        raise ValueError(f"freqs must be on the device of z, {z.device}, got {freqs.device}")
    if 2 * freqs.shape[0] > sizes["S"]:
        raise ValueError(
            f"freqs must turn at most the S={sizes['S']} channels of qk, two each, "
            f"got {freqs.shape[0]} frequencies"
        )
    if group_size < 1:
        raise ValueError(f"group_size must be at least 1, got {group_size}")


def check_normalize(normalize: str, causal: bool) -> None:
    """Hold the divisor of the memory to what `joint_attention` documents."""
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize must be one of {', '.join(NORMALIZE)}, got {normalize!r}")
    if normalize == "group" and not causal:
        raise ValueError("normalize must be 'frames' unless causal is set, got 'group'")


def _check_keep(keep: Tensor | None, keep_scale: float, z: Tensor, group_size: int) -> None:
    if not keep_scale > 0:
        raise ValueError(f"keep_scale must be positive, got {keep_scale}")
    if keep is None:
        if keep_scale != 1:
            raise ValueError(f"keep_scale must be 1 without keep, got {keep_scale}")
        return
    check_shape("keep", keep, "B T G", {"B": z.shape[0], "T": z.shape[1], "G": group_size})
    if keep.dtype != torch.bool:
        raise TypeError(f"keep must be bool, got {keep.dtype}")
    if keep.device != z.device:
        raise ValueError(f"keep must be on the device of z, {z.device}, got {keep.device}")


class _JointAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        o, memory = _fwd(*arguments)
        *tensors, ctx.group_size, ctx.causal, ctx.per_group, ctx.keep_scale, ctx.backend = arguments
        ctx.save_for_backward(*tensors, memory)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        options = (ctx.group_size, ctx.causal, ctx.per_group, ctx.keep_scale, ctx.backend)
        return *_bwd(*ctx.saved_tensors, do, *options), *(None,) * 8


# What both backends offer, in cpu.py and in kernels.py, with contiguous tensors, outputs last:
#   forward(z, qk, gamma, beta, freqs, keep, cu_seqlens, o, memory,
#           group_size, causal, per_group, keep_scale)
#   backward(z, qk, gamma, beta, freqs, keep, cu_seqlens, memory, do, dz, dqk, dgamma, dbeta,
#            group_size, causal, per_group, keep_scale)
# gamma, beta, memory and their gradients are in the dtype of states. memory has room for every M:
# [N,S,2E], or, causal, one per group [slots,S,2E]; group j of packed sequence n is in slot
# cu_seqlens[n] // G + n + j. Whether it is divided already is the backend's own business.


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernels as module
    else:
        from . import cpu as module
    return module


def _for_kernels(z: Tensor, *arguments: Any) -> tuple[Any, ...]:
    qk, gamma, beta, freqs, keep, cu_seqlens = arguments
    check_boundaries(cu_seqlens, z.shape[1])
    freqs = freqs.to(z.device)
    return contiguous(z, qk, gamma, beta, freqs, keep, on_device(cu_seqlens, z))


def _memory_shape(
    z: Tensor, qk: Tensor, cu_seqlens: Tensor | None, group_size: int, causal: bool
) -> tuple[int, ...]:
    batch, T, width = z.shape
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    held = slots(batch, T, sequences, group_size) if causal else sequences
    return held, qk.shape[2], width


def _fwd_impl(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, group_size, causal, per_group, keep_scale, backend = arguments
    given = _for_kernels(*tensors)
    z, qk, gamma = given[:3]
    o = alloc.empty((*z.shape[:2], z.shape[2] // 2), z)
    memory = alloc.empty(_memory_shape(z, qk, tensors[-1], group_size, causal), gamma)
    _module(backend).forward(*given, o, memory, group_size, causal, per_group, keep_scale)
    return o, memory


def _fwd_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    z, qk, gamma, _beta, _freqs, _keep, cu_seqlens, group_size, causal, *_ = arguments
    o = z.new_empty((*z.shape[:2], z.shape[2] // 2))
    return o, gamma.new_empty(_memory_shape(z, qk, cu_seqlens, group_size, causal))


def _bwd_impl(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, memory, do, group_size, causal, per_group, keep_scale, backend = arguments
    given = _for_kernels(*tensors)
    grads = tuple(alloc.empty(x.shape, x) for x in given[:4])
    options = (group_size, causal, per_group, keep_scale)
    _module(backend).backward(*given, *contiguous(memory, do), *grads, *options)
    return grads


def _bwd_fake(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[:4])


_INPUTS = (
    "Tensor z, Tensor qk, Tensor gamma, Tensor beta, Tensor freqs, Tensor? keep, Tensor? cu_seqlens"
)
_OPTIONS = "int group_size, bool causal, bool per_group, float keep_scale, str backend"

_fwd = define_op(
    f"joint_attention_fwd({_INPUTS}, {_OPTIONS}) -> (Tensor o, Tensor memory)",
    _fwd_impl,
    _fwd_fake,
)
_bwd = define_op(
    f"joint_attention_bwd({_INPUTS}, Tensor memory, Tensor do, {_OPTIONS}) "
    "-> (Tensor dz, Tensor dqk, Tensor dgamma, Tensor dbeta)",
    _bwd_impl,
    _bwd_fake,
)
