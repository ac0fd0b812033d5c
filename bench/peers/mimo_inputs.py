# SPDX-License-Identifier: Apache-2.0
"""What the peers of mimo_ssm share: parameters discretised as S5 does it, in complex numbers."""

import torch
from torch import Tensor

from ..workloads import Problem


def discretised(A: Tensor, B: Tensor, C: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Complex a [P], B [P, H] by zero-order hold, and C [H, P], from pairs."""
    A, B, C = (torch.view_as_complex(x) for x in (A, B, C))
    a = (dt * A).exp()
    return a, ((a - 1) / A)[:, None] * B, C


def project(B: Tensor, u: Tensor) -> Tensor:
    """B u [B, T, P] by one real product."""
    both = u @ torch.cat((B.real, B.imag)).T
    return torch.complex(*both.chunk(2, -1))


def read(C: Tensor, x: Tensor, u: Tensor, D: Tensor) -> Tensor:
    """2 Re(C x) + D u by one real product."""
    both = torch.cat((x.real, x.imag), -1)
    return 2 * (both @ torch.cat((C.real, -C.imag), -1).T) + D * u


def refuses(problem: Problem) -> str | None:
    """Why a problem is not S5's own, or None."""
    return None if problem.case.name == "zoh" else "zero-order hold with one rate only"
