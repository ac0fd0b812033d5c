# SPDX-License-Identifier: Apache-2.0
"""The scan by jax on the CPU: associative_scan and lax.scan, compiled."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contender import Contender
from ..oracle import Result
from ..workloads import Problem


def _associative(jax: Any, a: Any, b: Any) -> Any:
    def combine(left: Any, right: Any) -> Any:
        return right[0] * left[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(combine, (a, b), axis=1)[1]


def _sequential(jax: Any, a: Any, b: Any) -> Any:
    def step(h: Any, pair: Any) -> Any:
        h = pair[0] * h + pair[1]
        return h, h

    time_first = (a.swapaxes(0, 1), b.swapaxes(0, 1))
    return jax.lax.scan(step, 0 * b[:, 0], time_first)[1].swapaxes(0, 1)


class _JaxCall:
    """A function of jax arrays, compiled; forward and backward are one compiled whole."""

    def __init__(self, function: Callable[..., Any], problem: Problem) -> None:
        jax: Any = importlib.import_module("jax")

        def scan(a: Any, b: Any) -> Any:
            return function(jax, a, b)

        def both(a: Any, b: Any, cotangent: Any) -> Any:
            h, pull = jax.vjp(scan, a, b)
            return h, pull(cotangent)

        cpu = jax.devices("cpu")[0]
        self._a, self._b, self._cotangent = (
            jax.device_put(x.numpy(), cpu)
            for x in (problem.inputs["a"], problem.inputs["b"], problem.cotangent)
        )
        self._forward, self._both = jax.jit(scan), jax.jit(both)
        self._wait = jax.block_until_ready

    def forward(self) -> Any:
        return self._wait(self._forward(self._a, self._b))

    def training(self, mark: Callable[[], None]) -> Any:
        return self._wait(self._both(self._a, self._b, self._cotangent))

    def output(self, returned: Any) -> Tensor:
        return torch.from_dlpack(returned)

    def result(self, returned: Any) -> Result:
        h, (da, db) = returned
        a, b = self.output(da), self.output(db)
        return Result(self.output(h), {"a": a, "b": b})


def _refuses(problem: Problem) -> str | None:
    return None if problem.workload.dtype == "float32" else "float32 only"


def _contender(name: str, function: Callable[..., Any]) -> Contender:
    return Contender(
        name=name,
        prepare=lambda problem: _JaxCall(function, problem),
        distribution="jax",
        module="jax",
        device="cpu",
        refuses=_refuses,
    )


CONTENDERS = (
    _contender("jax associative_scan", _associative),
    _contender("jax lax.scan", _sequential),
)
