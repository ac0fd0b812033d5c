# SPDX-License-Identifier: Apache-2.0
"""Complex arithmetic on real tensors [..., 2], (real, imaginary): what torch.compile can trace.

Every function keeps the dtype it is given and is differentiable by autograd.
"""

import math

import torch
from torch import Tensor

# (e^z - 1) / z = e^{z/2} sinhc(z/2) near 0, where the quotient and still more its derivative
# cancel; sinhc(w) = sum of w^2k / (2k+1)!, whose next term is below 2e-17 for |w| <= 1/8.
_NEAR = 0.25
_SINHC = tuple(1 / math.factorial(2 * k + 1) for k in range(6))


def as_pairs(x: Tensor) -> Tensor:
    """A complex tensor [...] as pairs [..., 2]; all else stays as it is, for checks to name."""
    complex_given = isinstance(x, Tensor) and x.is_complex()
    return torch.view_as_real(x.resolve_conj()) if complex_given else x


def mul(x: Tensor, y: Tensor) -> Tensor:
    """x y, broadcast over all axes but the last."""
    (a, b), (c, d) = x.unbind(-1), y.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c), -1)


def conj(x: Tensor) -> Tensor:
    """The complex conjugates."""
    real, imaginary = x.unbind(-1)
    return torch.stack((real, -imaginary), -1)


def add(x: Tensor, real: float | Tensor) -> Tensor:
    """x plus a real number."""
    a, b = x.unbind(-1)
    return torch.stack((a + real, b), -1)


def inverse(x: Tensor) -> Tensor:
    """1 / x, for x whose squared modulus neither under- nor overflows."""
    return conj(x) / x.square().sum(-1, keepdim=True)


def div(x: Tensor, y: Tensor) -> Tensor:
    """x / y, for such y."""
    return mul(x, inverse(y))


def exp(z: Tensor) -> Tensor:
    """e^z"""
    x, y = z.unbind(-1)
    return x.exp()[..., None] * torch.stack((y.cos(), y.sin()), -1)


def expm1(z: Tensor) -> Tensor:
    """e^z - 1, as exact for small z as for large ones."""
    x, y = z.unbind(-1)
    real = x.expm1() * y.cos() - 2 * (y / 2).sin().square()
    return torch.stack((real, x.exp() * y.sin()), -1)


def expm1_over(z: Tensor) -> Tensor:
    """(e^z - 1) / z, 1 at z = 0, with its derivatives."""
    near = z.square().sum(-1, keepdim=True) < _NEAR**2
    # Each branch sees harmless numbers where the other one is taken, so that no NaN of a branch
    # not taken enters a gradient.
    small, large = torch.where(near, z, 0), torch.where(near, 1, z)
    square = mul(small, small) / 4
    series = torch.zeros_like(z)
    for coefficient in reversed(_SINHC):
        series = add(mul(series, square), coefficient)
    return torch.where(near, mul(exp(small / 2), series), div(expm1(large), large))


def powers(a: Tensor, count: int) -> Tensor:
    """1, a, a^2, ... along a new axis before the last: [..., count, 2], by doubling.

    Each power is a product of log2(count) others, so that its relative error stays near that of
    count roundings of `a` itself; a = 0 is allowed. Cost: count products.
    """
    table, step = add(torch.zeros_like(a), 1)[..., None, :], a[..., None, :]
    while table.shape[-2] < count:
        table = torch.cat((table, mul(table, step)), -2)
        step = mul(step, step)
    return table[..., :count, :]
