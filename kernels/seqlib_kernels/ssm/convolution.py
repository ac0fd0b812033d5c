# SPDX-License-Identifier: Apache-2.0
"""Convolution along time by FFT, of inputs with one kernel per channel."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._core.ops import define_op


def convolve(u: Tensor, K: Tensor) -> Tensor:
    """y_t = sum_j K0_j u_{t-j} + sum_j K1_j u_{t+1+j}, j from 0.

    Args:
        u: [B, T, H].
        K: [1, H, T], or [2, H, T] with the kernel of what comes later; float32, or float64. The
            transforms have its dtype.

    Returns:
        y [B, T, H] in the dtype of K.

    Cost: three transforms of a fast length from 2 T - 1 per channel, of B + 1 rows in all but the
    last; the backward pass repeats those of the inputs instead of keeping them.
    """
    return _Convolution.apply(u, K)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, K: Tensor) -> Tensor:
        ctx.save_for_backward(u, K)
        return _fwd(u, K)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        return _bwd(dy, *ctx.saved_tensors)


def _fwd_impl(u: Tensor, K: Tensor) -> Tensor:
    T = u.shape[1]
    if T == 0:
        return u.new_empty(u.shape, dtype=K.dtype)
    y = torch.fft.irfft(_spectrum(u, K) * _kernel_spectrum(K), n=fast_length(2 * T - 1))
    return y[..., :T].transpose(1, 2).contiguous()


def _bwd_impl(dy: Tensor, u: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    T = u.shape[1]
    if T == 0:
        return torch.empty_like(u), torch.empty_like(K)
    n = fast_length(2 * T - 1)
    outer = _spectrum(dy, K)
    # conj() only marks its result, and compiled graphs run operators without heeding the mark.
    du = torch.fft.irfft(outer * _kernel_spectrum(K).conj_physical(), n=n)[..., :T]
    lags = torch.fft.irfft((outer * _spectrum(u, K).conj_physical()).sum(0), n=n)
    dK = torch.empty_like(K)
    dK[0] = lags[:, :T]
    if len(K) == 2:
        dK[1, :, : T - 1] = lags[:, n - T + 1 :].flip(-1)
        dK[1, :, T - 1] = 0  # reaches no input
    return du.transpose(1, 2).to(u.dtype).contiguous(), dK


def _spectrum(x: Tensor, K: Tensor) -> Tensor:
    """[B, H, frequencies] of x [B, T, H]."""
    rows = x.transpose(1, 2).to(K.dtype).contiguous()  # 16 bits have no transform
    return torch.fft.rfft(rows, n=fast_length(2 * x.shape[1] - 1))


def _kernel_spectrum(K: Tensor) -> Tensor:
    """[H, frequencies] of the lags from 0, and from -1 down for the second kernel."""
    T = K.shape[2]
    n = fast_length(2 * T - 1)
    if len(K) == 1:
        return torch.fft.rfft(K[0], n=n)
    lags = K.new_zeros((K.shape[1], n))
    lags[:, :T] = K[0]
    lags[:, n - T + 1 :] = K[1, :, : T - 1].flip(-1)
    return torch.fft.rfft(lags)


def fast_length(least: int) -> int:
    """The smallest 2^i 3^j 5^k, i > 0, from `least`: what transforms are quick for."""
    best = 1 << max(least - 1, 1).bit_length()
    for fives in range(4):
        for threes in range(4):
            odd = 5**fives * 3**threes
            best = min(best, odd << max(1, (-(-least // odd) - 1).bit_length()))
    return best


_fwd = define_op(
    "ssm_convolve_fwd(Tensor u, Tensor K) -> Tensor y",
    _fwd_impl,
    fake=lambda u, K: u.new_empty(u.shape, dtype=K.dtype),
)
_bwd = define_op(
    "ssm_convolve_bwd(Tensor dy, Tensor u, Tensor K) -> (Tensor du, Tensor dK)",
    _bwd_impl,
    fake=lambda dy, u, K: (u.new_empty(u.shape), K.new_empty(K.shape)),
)
