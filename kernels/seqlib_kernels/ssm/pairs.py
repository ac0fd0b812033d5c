# SPDX-License-Identifier: Apache-2.0
"""Complex arithmetic on real tensors [..., 2], (real, imaginary): what torch.compile can trace.

Every function keeps the dtype it is given and is differentiable by autograd.
"""

from typing import Any

import torch
from torch import Tensor


def as_pairs(x: Any) -> Any:
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
