# SPDX-License-Identifier: Apache-2.0
"""A contender: one way of computing an op, ours or a peer's, ready to be timed."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .oracle import Result
from .workloads import Problem

Function = Callable[..., Tensor]


class Call(Protocol):
    """A contender bound to the tensors of one problem."""

    def forward(self) -> Any:
        """The output alone, as in inference; returns when the work was started."""
        ...

    def training(self, mark: Callable[[], None]) -> Any:
        """Forward and backward pass; calls `mark` between them if they can be told apart."""
        ...

    def output(self, returned: Any) -> Tensor:
        """What `forward` returned, as a tensor."""
        ...

    def result(self, returned: Any) -> Result:
        """What `training` returned, as tensors."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One implementation of an op.

    Attributes:
        name: its name in tables.
        prepare: binds it to a problem; the place for its imports, copies and compiler.
        ours: whether it is this project's, not a peer's.
        distribution: what is installed to have it, for its version; "torch" by default.
        module: what must be importable.
        device: the only kind of device it runs on; None for any.
        refuses: why it can't do a problem, or None.
        compiled: whether torch.compile is at work, anew for each thread count, for minutes in all.
        sequential: whether it is a loop of small operations, which more threads only slow down.
    """

    name: str
    prepare: Callable[[Problem], Call]
    ours: bool = False
    distribution: str = "torch"
    module: str = "torch"
    device: str | None = None
    refuses: Callable[[Problem], str | None] = lambda _: None
    compiled: bool = False
    sequential: bool = False

    @property
    def one_thread(self) -> bool:
        """Whether it is timed with the first thread count of a suite alone."""
        return self.compiled or self.sequential

    def problem_with(self, problem: Problem) -> str | None:
        """Why it can't take part on a device of its kind, or None."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.distribution} is not installed"
        return self.refuses(problem)


class TorchCall:
    """A function of torch tensors that returns the output, differentiable by autograd."""

    def __init__(self, function: Function, problem: Problem) -> None:
        self._function = function
        self._inputs = problem.inputs
        self._options = problem.case.options
        self._leaves = {n: x.detach().requires_grad_() for n, x in problem.inputs.items()}
        self._cotangent = problem.cotangent

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self._function(**self._inputs, **self._options)

    def training(self, mark: Callable[[], None]) -> Result:
        output = self._function(**self._leaves, **self._options)
        mark()
        gradients = torch.autograd.grad(output, list(self._leaves.values()), self._cotangent)
        return Result(output.detach(), dict(zip(self._leaves, gradients, strict=True)))

    def output(self, returned: Tensor) -> Tensor:
        return returned

    def result(self, returned: Result) -> Result:
        return returned


def ours(backend: str, device: str) -> Contender:
    """The op itself on one of its backends."""

    def prepare(problem: Problem) -> Call:
        def function(**arguments: Any) -> Tensor:
            return problem.spec.op(**arguments, backend=backend)[0]

        return TorchCall(function, problem)

    return Contender(
        name=f"seqlib {backend}", prepare=prepare, ours=True, distribution="seqlib", device=device
    )
