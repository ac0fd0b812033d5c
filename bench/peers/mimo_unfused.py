# SPDX-License-Identifier: Apache-2.0
"""S5 in torch: products around a scan of all states, by a tree, in a loop, or by FFT."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .mimo_inputs import discretised, project, read, refuses

Scan = Callable[[Tensor, Tensor], Tensor]
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def _combine(left: Parts, right: Parts) -> Parts:
    """Two affine maps after one another: real and imaginary parts of both factors."""
    (a, b, v, w), (c, d, x, y) = left, right
    return c * a - d * b, c * b + d * a, c * v - d * w + x, c * w + d * v + y


def associative(a: Tensor, v: Tensor) -> Tensor:
    """States [B, T, P] by a tree of log2(T) levels, on real and imaginary parts."""
    from torch._higher_order_ops.associative_scan import associative_scan

    parts = (a.real.expand(v.shape), a.imag.expand(v.shape), v.real, v.imag)
    scanned = associative_scan(_combine, parts, dim=1, combine_mode="generic")
    return torch.complex(scanned[2], scanned[3])


def loop(a: Tensor, v: Tensor) -> Tensor:
    """States [B, T, P], one token after the other."""
    x, states = torch.zeros_like(v[:, 0]), []
    for v_t in v.unbind(1):
        x = a * x + v_t
        states.append(x)
    return torch.stack(states, 1)


def convolution(a: Tensor, v: Tensor) -> Tensor:
    """States [B, T, P] as the convolution of v with the powers of a, by FFT."""
    T = v.shape[1]
    time = torch.arange(T, device=a.device)[:, None]
    # e^{t log a}: a power of a complex number loses its phase over thousands of steps.
    powers = (a.log().to(torch.complex128) * time).exp().to(a.dtype)
    spectrum = torch.fft.fft(v, 2 * T, dim=1) * torch.fft.fft(powers, 2 * T, dim=0)
    return torch.fft.ifft(spectrum, dim=1)[:, :T]


def _layer(scan: Scan) -> Callable[..., Tensor]:
    def layer(u: Tensor, A: Tensor, B: Tensor, C: Tensor, dt: Tensor, D: Tensor) -> Tensor:
        a, B, C = discretised(A, B, C, dt)
        return read(C, scan(a, project(B, u)), u, D)

    return layer


def _contender(name: str, scan: Scan, *, sequential: bool = False) -> Contender:
    def prepare(problem: Problem) -> Call:
        return TorchCall(_layer(scan), problem)

    return Contender(name=name, prepare=prepare, refuses=refuses, sequential=sequential)


CONTENDERS = (
    _contender("torch products, associative_scan", associative),
    _contender("torch products, FFT", convolution),
    _contender("torch products, loop", loop, sequential=True),
)
