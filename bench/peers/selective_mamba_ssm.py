# SPDX-License-Identifier: Apache-2.0
"""The selective scan by mamba-ssm's CUDA kernel."""

import importlib

from torch import Tensor

from ..contender import Call, Contender
from ..workloads import Problem
from .ssm_inputs import TimeLast, refuses_signed_decay


def _prepare(problem: Problem) -> Call:
    kernel = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

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
        return kernel(u, dt, A, B, C, D, z, delta_bias=dt_bias, delta_softplus=dt_softplus)

    return TimeLast(function, problem)


CONTENDERS = (
    Contender(
        name="mamba-ssm selective scan",
        prepare=_prepare,
        distribution="mamba-ssm",
        module="mamba_ssm",
        device="cuda",
        refuses=refuses_signed_decay,
    ),
)
