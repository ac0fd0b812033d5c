# SPDX-License-Identifier: Apache-2.0
"""The truth that contenders are held to: the reference in float64 on the inputs that are timed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .workloads import Problem

SEGMENT = 256  # steps whose intermediate values are alive at once in the backward pass


@dataclass(frozen=True)
class Result:
    """What a contender computed: the output, and the gradient of each input by its name."""

    output: Tensor
    gradients: dict[str, Tensor]


def solve(problem: Problem) -> Result:
    """Output and gradients of the reference, from float64 copies of the rounded inputs.

    Long sequences run in segments that the backward pass computes again: memory grows with
    SEGMENT and with the states between segments, not with all steps. Only where nothing can be
    handed over they run whole.
    """
    leaves = {
        name: x.to(torch.promote_types(x.dtype, torch.float64)).requires_grad_()
        for name, x in problem.inputs.items()
    }
    names, T = list(leaves), problem.workload.T
    outputs, state = [], None
    segment = T if problem.case.stateless else SEGMENT
    for first in range(0, T, segment):
        piece = problem.case.tokens(leaves, first, min(first + segment, T)).values()

        def run(state: Tensor | None, *tensors: Tensor) -> tuple[Tensor, Tensor | None]:
            handed = {"initial_state": state, "return_final_state": True}
            return problem.spec.reference(
                **dict(zip(names, tensors, strict=True)),
                **problem.case.options,
                **({} if problem.case.stateless else handed),
            )

        output, state = checkpoint(  # pyright: ignore[reportGeneralTypeIssues]
            run, state, *piece, use_reentrant=False, preserve_rng_state=False
        )
        outputs.append(output)
    output = torch.cat(outputs, 1)
    cotangent = problem.cotangent.to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), cotangent)
    return Result(output.detach(), dict(zip(leaves, gradients, strict=True)))
