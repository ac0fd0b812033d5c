# SPDX-License-Identifier: Apache-2.0
"""The selective scan by mambapy's parallel scan in torch, with all states in memory."""

import importlib

import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .ssm_inputs import decay, step_sizes


def _prepare(problem: Problem) -> Call:
    pscan = importlib.import_module("mambapy.pscan").pscan

    def scan(
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        *,
        dt_bias: Tensor | None = None,
        dt_softplus: bool = False,
        negative_eigenvalues: bool = False,
    ) -> Tensor:
        delta = step_sizes(dt, dt_bias, dt_softplus)[..., None]  # [B,T,D,1]
        states = pscan(decay(delta * A, negative_eigenvalues), delta * u[..., None] * B[:, :, None])
        y = (states @ C[..., None])[..., 0]
        y = y if D is None else y + D * u
        return y if z is None else y * F.silu(z)

    return TorchCall(scan, problem)


def _refuses(problem: Problem) -> str | None:
    return "one group of B and C only" if problem.inputs["B"].ndim == 4 else None


CONTENDERS = (
    Contender(
        name="mambapy pscan",
        prepare=_prepare,
        distribution="mambapy",
        module="mambapy",
        device="cpu",
        refuses=_refuses,
    ),
)
