# SPDX-License-Identifier: Apache-2.0
"""The state-space dual as transformers' Mamba-2 computes it where mamba-ssm is missing."""

import importlib

from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .ssm_inputs import refuses_signed_decay

MODULE, NAME = "transformers.models.mamba2.modeling_mamba2", "mamba2_chunk_scan"
CHUNK = 256  # as its configuration has it


def _prepare(problem: Problem) -> Call:
    scan = getattr(importlib.import_module(MODULE), NAME)

    def function(
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        *,
        dt_bias: Tensor | None = None,
        dt_softplus: bool = False,
    ) -> Tensor:
        y = scan(x, dt, A, B, C, CHUNK, D=D, dt_bias=dt_bias, dt_softplus=dt_softplus)
        return y.to(x.dtype)

    return TorchCall(function, problem)


def _refuses(problem: Problem) -> str | None:
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
    ),
)
