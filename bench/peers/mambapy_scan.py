# SPDX-License-Identifier: Apache-2.0
"""The scan by mambapy's parallel scan in torch."""

import importlib

from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem


def _prepare(problem: Problem) -> Call:
    pscan = importlib.import_module("mambapy.pscan").pscan

    def scan(a: Tensor, b: Tensor) -> Tensor:
        return pscan(a[..., None], b[..., None])[..., 0]  # it wants states behind the channels

    return TorchCall(scan, problem)


CONTENDERS = (
    Contender(name="mambapy pscan", prepare=_prepare, distribution="mambapy", module="mambapy"),
)
