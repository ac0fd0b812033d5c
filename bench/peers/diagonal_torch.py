# SPDX-License-Identifier: Apache-2.0
"""S4D in torch: an FFT convolution with a kernel made in two ways, a tree of scans, and a loop."""

from collections.abc import Callable

import torch
from seqlib_kernels import ssm_kernel
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .mimo_unfused import associative, loop

MOST_STATES = 1 << 25  # complex numbers [B, T, H, M]: several copies of them have to fit


def naive_kernel(A: Tensor, B: Tensor, C: Tensor, dt: Tensor, length: int) -> Tensor:
    """K [H, length] through every power of every mode: a tensor [H, M, length]."""
    A, B, C = (torch.view_as_complex(x) for x in (A, B, C))
    z = dt[:, None] * A
    weights = 2 * C * B * (z.exp() - 1) / A
    powers = (z[..., None] * torch.arange(length, device=A.device)).exp()
    return torch.einsum("hm,hml->hl", weights, powers).real


def convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """u [B, T, H] with a kernel [H, T], by FFT."""
    T = u.shape[1]
    spectrum = torch.fft.rfft(u, 2 * T, dim=1) * torch.fft.rfft(kernel.T, 2 * T, dim=0)
    return torch.fft.irfft(spectrum, 2 * T, dim=1)[:, :T]


def _convolution(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def layer(u: Tensor, A: Tensor, B: Tensor, C: Tensor, dt: Tensor, D: Tensor) -> Tensor:
        return convolve(u, make(A, B, C, dt, u.shape[1])) + D * u

    return layer


def _recurrence(scan: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def layer(u: Tensor, A: Tensor, B: Tensor, C: Tensor, dt: Tensor, D: Tensor) -> Tensor:
        A, B, C = (torch.view_as_complex(x) for x in (A, B, C))
        a = (dt[:, None] * A).exp()
        x = scan(a, (a - 1) / A * B * u[..., None])
        return 2 * (C * x).sum(-1).real + D * u

    return layer


def refuses(problem: Problem) -> str | None:
    """Why a problem is not S4D's own, or None."""
    return None if problem.case.name == "zoh" else "zero-order hold and one system a channel only"


def refuses_states(problem: Problem) -> str | None:
    """Why the states of all tokens can't be held, or None."""
    work = problem.workload
    states = work.B * work.T * work.dims["H"] * work.dims["M"]
    too_many = f"{states:,} states would not fit" if states > MOST_STATES else None
    return refuses(problem) or too_many


def _contender(
    name: str,
    layer: Callable[..., Tensor],
    refuses: Callable[[Problem], str | None],
    *,
    sequential: bool = False,
) -> Contender:
    def prepare(problem: Problem) -> Call:
        return TorchCall(layer, problem)

    return Contender(name=name, prepare=prepare, refuses=refuses, sequential=sequential)


CONTENDERS = (
    _contender("torch FFT, kernel by powers", _convolution(naive_kernel), refuses_states),
    _contender("torch FFT, kernel by ssm_kernel", _convolution(ssm_kernel), refuses),
    _contender("torch associative_scan", _recurrence(associative), refuses_states),
    _contender("torch loop", _recurrence(loop), refuses_states, sequential=True),
)
