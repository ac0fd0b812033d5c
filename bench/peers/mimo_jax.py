# SPDX-License-Identifier: Apache-2.0
"""S5 by jax on the CPU: its associative_scan of complex states, compiled."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contender import Contender
from ..oracle import Result
from ..workloads import Problem
from .mimo_inputs import refuses


def _layer(jax: Any, u: Any, A: Any, B: Any, C: Any, dt: Any, D: Any) -> Any:
    numpy, (A, B, C) = jax.numpy, (x[..., 0] + 1j * x[..., 1] for x in (A, B, C))
    a = numpy.exp(dt * A)
    v = u @ (((a - 1) / A)[:, None] * B).T

    def combine(left: Any, right: Any) -> Any:
        return right[0] * left[0], right[0] * left[1] + right[1]

    scanned = jax.lax.associative_scan(combine, (numpy.broadcast_to(a, v.shape), v), axis=1)
    return 2 * (scanned[1] @ C.T).real + D * u


class JaxCall:
    """`layer(jax, u, A, B, C, dt, D)`, compiled; forward and backward are one compiled whole."""

    def __init__(self, function: Callable[..., Any], problem: Problem) -> None:
        jax: Any = importlib.import_module("jax")

        def layer(*arguments: Any) -> Any:
            return function(jax, *arguments)

        def both(cotangent: Any, *arguments: Any) -> Any:
            y, pull = jax.vjp(layer, *arguments)
            return y, pull(cotangent)

        cpu = jax.devices("cpu")[0]
        self._names = ("u", "A", "B", "C", "dt", "D")
        tensors = (problem.cotangent, *(problem.inputs[n] for n in self._names))
        self._cotangent, *self._inputs = (jax.device_put(x.numpy(), cpu) for x in tensors)
        self._forward, self._both = jax.jit(layer), jax.jit(both)
        self._wait = jax.block_until_ready

    def forward(self) -> Any:
        return self._wait(self._forward(*self._inputs))

    def training(self, mark: Callable[[], None]) -> Any:
        return self._wait(self._both(self._cotangent, *self._inputs))

    def output(self, returned: Any) -> Tensor:
        return torch.from_dlpack(returned)

    def result(self, returned: Any) -> Result:
        y, gradients = returned
        named = zip(self._names, gradients, strict=True)
        return Result(self.output(y), {n: self.output(x) for n, x in named})


def _prepare(problem: Problem) -> JaxCall:
    return JaxCall(_layer, problem)


def _refuses(problem: Problem) -> str | None:
    return refuses(problem) if problem.workload.dtype == "float32" else "float32 only"


CONTENDERS = (
    Contender(
        name="jax products, associative_scan",
        prepare=_prepare,
        distribution="jax",
        module="jax",
        device="cpu",
        refuses=_refuses,
    ),
)
