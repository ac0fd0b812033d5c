# SPDX-License-Identifier: Apache-2.0
"""Sums of powers and their adjoint, by two-level tables; nothing of shape (H, M, L) appears.

With t = i S + j and S near the root of L, a^t = (a^S)^i a^j: 2 M sqrt(L) powers instead of M L,
formed in float64, then one batched product in the dtype of the result. The gradient of each of the
two operators is the other one. Source: Gu et al., arXiv 2206.11893, section 3, for the naive form.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._core.ops import define_op
from .pairs import conj, mul


def synthesise(a: Tensor, w: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """k[n, h, t] = Re(sum over modes of w a^t) for t < length.

    Args:
        a: [H, M, 2] float64 pairs.
        w: [N, H, M, 2] float64 pairs.
        length: the number of powers, from the zeroth.
        dtype: of the product and the result, float32 or float64.

    Returns:
        [N, H, length].

    Cost: 4 M (N + 1) sqrt(length) powers and 4 M N length operations per channel.
    """
    return _Synthesis.apply(a, w, length, dtype)


def analyse(a: Tensor, x: Tensor) -> Tensor:
    """sum over t of x[n, h, t] a^t: float64 pairs [N, H, M, 2] for a [H, M, 2] and x [N, H, L]."""
    return _Analysis.apply(a, x)


def power(a: Tensor, exponent: int) -> Tensor:
    """a^exponent, pairs as `a` [H, M, 2], for an exponent that may be unknown while tracing."""
    impulse = torch.cat((a.new_zeros(exponent), a.new_ones(1)))
    return analyse(a, impulse.expand(1, a.shape[0], -1))[0]


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor, length: int, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(a, w)
        return _synthesise(a, w, length, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dk: Tensor) -> tuple[Tensor | None, ...]:
        a, w = ctx.saved_tensors
        both = _analyse(a, torch.cat((dk, _slope(dk))))
        dw, da = both.unflatten(0, (2, -1))
        return conj(mul(w, da).sum(0)), conj(dw), None, None


class _Analysis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(a, x)
        return _analyse(a, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor]:
        a, x = ctx.saved_tensors
        da = mul(dz, conj(_analyse(a, _slope(x)))).sum(0)
        return da, _synthesise(a, conj(dz), x.shape[2], x.dtype)


def _slope(x: Tensor) -> Tensor:
    """(t + 1) x[t + 1] in the place of x[t]: what the derivative of a^t makes of a sum."""
    t = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.nn.functional.pad((x * t)[..., 1:], (0, 1)) if x.shape[-1] else x


def _split(length: int) -> tuple[int, int]:
    """S, a power of two near the root of `length`, and how many times S covers it."""
    S = 1 << (max(length - 1, 0).bit_length() + 1) // 2
    return S, -(-length // S)


def _powers(a: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """a^0 to a^(count-1) as planes [H, M, 2, count], by doubling; and a^count if that is 2^k.

    A power is the product of at most log2(count) rounded ones.
    """
    table = a.new_empty((*a.shape, count))
    real, imaginary = table.unbind(2)
    real[..., :1], imaginary[..., :1] = 1, 0
    done, step = 1, a
    while done < count:
        size = min(done, count - done)
        re, im = step[..., :1], step[..., 1:]
        x, y = real[..., :size], imaginary[..., :size]
        real[..., done : done + size] = x * re - y * im
        imaginary[..., done : done + size] = x * im + y * re
        done += size
        step = mul(step, step)
    return table, step


def _synthesise_impl(a: Tensor, w: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    N, H, M, _ = w.shape
    S, rows = _split(length)
    fine, a_S = _powers(a, S)
    coarse, _ = _powers(a_S, rows)
    x, y = coarse.unbind(2)  # [H, M, rows]
    left = a.new_empty((H, N, rows, 2, M), dtype=dtype)
    for n in range(N):
        re, im = w[n, ..., :1], w[n, ..., 1:]
        left[:, n, :, 0] = (x * re - y * im).mT
        left[:, n, :, 1] = -(x * im + y * re).mT
    right = fine.transpose(1, 2).to(dtype).reshape(H, 2 * M, S)
    k = left.view(H, N * rows, 2 * M) @ right
    return k.view(H, N, rows * S)[..., :length].transpose(0, 1).contiguous()


def _analyse_impl(a: Tensor, x: Tensor) -> Tensor:
    N, H, length = x.shape
    M = a.shape[1]
    S, rows = _split(length)
    fine, a_S = _powers(a, S)
    coarse, _ = _powers(a_S, rows)
    padded = x.new_zeros((H, N, rows * S))
    padded[..., :length] = x.transpose(0, 1)
    right = fine.transpose(1, 2).to(x.dtype).reshape(H, 2 * M, S)
    sums = (padded.view(H, N * rows, S) @ right.mT).view(H, N, rows, 2, M).double()
    re, im = sums.unbind(3)  # [H, N, rows, M]
    p, q = (part.mT[:, None] for part in coarse.unbind(2))
    z = torch.stack(((re * p - im * q).sum(2), (re * q + im * p).sum(2)), -1)
    return z.transpose(0, 1).contiguous()


def _synthesise_fake(a: Tensor, w: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    return a.new_empty((w.shape[0], a.shape[0], length), dtype=dtype)


def _analyse_fake(a: Tensor, x: Tensor) -> Tensor:
    return a.new_empty((x.shape[0], *a.shape))


_synthesise = define_op(
    "ssm_synthesise(Tensor a, Tensor w, SymInt length, ScalarType dtype) -> Tensor",
    _synthesise_impl,
    fake=_synthesise_fake,
)
_analyse = define_op("ssm_analyse(Tensor a, Tensor x) -> Tensor", _analyse_impl, fake=_analyse_fake)
