# SPDX-License-Identifier: Apache-2.0
"""Norms over whole sequences in torch, which wants time last, on transposed views."""

import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem


def _norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, per_channel: bool = False, eps: float
) -> Tensor:
    if per_channel:
        return F.instance_norm(x.mT, weight=weight, bias=bias, eps=eps).mT
    return F.group_norm(x.mT, 1, weight, bias, eps).mT


def _prepare(problem: Problem) -> Call:
    return TorchCall(_norm, problem)


CONTENDERS = (Contender(name="torch group_norm, instance_norm", prepare=_prepare),)
