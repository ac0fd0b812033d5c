# SPDX-License-Identifier: Apache-2.0
"""The selective scan as transformers' Mamba computes it where mamba-ssm is missing."""

import importlib

from torch import Tensor

from ..contender import Call, Contender
from ..workloads import Problem
from .ssm_inputs import TimeLast, refuses_signed_decay

MODULE, NAME = "transformers.models.mamba.modeling_mamba", "mamba_selective_scan"


def _prepare(problem: Problem) -> Call:
    scan = getattr(importlib.import_module(MODULE), NAME)

    def function(
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
    ) -> Tensor:
        return scan(u, dt, A, B, C, D, z, delta_bias=dt_bias, delta_softplus=dt_softplus)

    return TimeLast(function, problem)


def _refuses(problem: Problem) -> str | None:
    if problem.inputs["B"].ndim == 4:
        return "one group of B and C only"
    if problem.workload.T > 512:
        return "time and memory of its backward pass grow with the square of the length"
    if not hasattr(importlib.import_module(MODULE), NAME):
        return "this version has no scan that can be called alone"
    return refuses_signed_decay(problem)


CONTENDERS = (
    Contender(
        name="transformers, slow path",
        prepare=_prepare,
        distribution="transformers",
        module="transformers",
        device="cpu",
        refuses=_refuses,
        sequential=True,
    ),
)
