# SPDX-License-Identifier: Apache-2.0
"""The state-space dual by mamba-ssm's Triton kernels."""

import importlib

from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem
from .ssm_inputs import refuses_signed_decay

CHUNK = 256  # as its models have it


def _prepare(problem: Problem) -> Call:
    module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    kernel = module.mamba_chunk_scan_combined

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
        return kernel(x, dt, A, B, C, CHUNK, D=D, dt_bias=dt_bias, dt_softplus=dt_softplus)

    return TorchCall(function, problem)


CONTENDERS = (
    Contender(
        name="mamba-ssm chunk scan",
        prepare=_prepare,
        distribution="mamba-ssm",
        module="mamba_ssm",
        device="cuda",
        refuses=refuses_signed_decay,
    ),
)
