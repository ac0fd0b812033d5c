# SPDX-License-Identifier: Apache-2.0
"""The scan by torch's associative_scan, eager and compiled."""

import torch
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem

Pair = tuple[Tensor, Tensor]


def _combine(left: Pair, right: Pair) -> Pair:
    return right[0] * left[0], right[0] * left[1] + right[1]


def associative(a: Tensor, b: Tensor) -> Tensor:
    """A tree of log2(T) levels."""
    from torch._higher_order_ops.associative_scan import associative_scan

    return associative_scan(_combine, (a, b), dim=1, combine_mode="generic")[1]


def _eager(problem: Problem) -> Call:
    return TorchCall(associative, problem)


def _compiled(problem: Problem) -> Call:
    return TorchCall(torch.compile(associative, dynamic=False), problem)


def _refuses(problem: Problem) -> str | None:
    return "more than 4096 steps take minutes to compile" if problem.workload.T > 4096 else None


CONTENDERS = (
    Contender(name="torch associative_scan", prepare=_eager),
    Contender(
        name="torch associative_scan, compiled",
        prepare=_compiled,
        refuses=_refuses,
        compiled=True,
    ),
)
