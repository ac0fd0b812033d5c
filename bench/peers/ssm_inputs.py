# SPDX-License-Identifier: Apache-2.0
"""What the peers of the state-space ops in torch share: step sizes, decays, and time last."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contender import Function, TorchCall
from ..oracle import Result
from ..workloads import Problem


def wide(x: Tensor) -> Tensor:
    """`x` in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def step_sizes(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool) -> Tensor:
    """Delta, in at least float32."""
    delta = wide(dt) if dt_bias is None else wide(dt) + wide(dt_bias)
    return F.softplus(delta) if dt_softplus else delta


def decay(delta_A: Tensor, negative_eigenvalues: bool) -> Tensor:
    """The eigenvalues of a step."""
    e = delta_A.exp()
    return 2 * e - 1 if negative_eigenvalues else e


def refuses_signed_decay(problem: Problem) -> str | None:
    """Why a peer whose decays are exponentials can't do a problem, or None."""
    signed = "alpha" in problem.inputs or problem.case.options.get("negative_eigenvalues")
    return "no signed decay" if signed else None


class TimeLast(TorchCall):
    """A function that wants tensors [B, T, ...] as [B, ..., T] and returns its output so.

    They are laid out that way beforehand, as the models around such a function have them.
    """

    def __init__(self, function: Function, problem: Problem) -> None:
        self._constants = problem.case.constants
        inputs = {n: self._turned(n, x).contiguous() for n, x in problem.inputs.items()}
        cotangent = problem.cotangent.movedim(1, -1).contiguous()
        super().__init__(function, dataclasses.replace(problem, inputs=inputs, cotangent=cotangent))

    def _turned(self, name: str, x: Tensor) -> Tensor:
        return x if name in self._constants else x.movedim(1, -1)

    def output(self, returned: Any) -> Tensor:
        return returned.movedim(-1, 1)

    def result(self, returned: Any) -> Result:
        gradients = {
            n: x if n in self._constants else x.movedim(-1, 1)
            for n, x in returned.gradients.items()
        }
        return Result(self.output(returned.output), gradients)
