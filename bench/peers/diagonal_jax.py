# SPDX-License-Identifier: Apache-2.0
"""S4D by jax on the CPU: its associative_scan of complex states, compiled."""

from typing import Any

from ..contender import Contender
from ..workloads import Problem
from .diagonal_torch import refuses_states
from .mimo_jax import JaxCall


def _layer(jax: Any, u: Any, A: Any, B: Any, C: Any, dt: Any, D: Any) -> Any:
    numpy, (A, B, C) = jax.numpy, (x[..., 0] + 1j * x[..., 1] for x in (A, B, C))
    a = numpy.exp(dt[:, None] * A)
    v = (a - 1) / A * B * u[..., None]

    def combine(left: Any, right: Any) -> Any:
        return right[0] * left[0], right[0] * left[1] + right[1]

    scanned = jax.lax.associative_scan(combine, (numpy.broadcast_to(a, v.shape), v), axis=1)
    return 2 * (C * scanned[1]).sum(-1).real + D * u


def _prepare(problem: Problem) -> JaxCall:
    return JaxCall(_layer, problem)


def _refuses(problem: Problem) -> str | None:
    return refuses_states(problem) if problem.workload.dtype == "float32" else "float32 only"


CONTENDERS = (
    Contender(
        name="jax associative_scan",
        prepare=_prepare,
        distribution="jax",
        module="jax",
        device="cpu",
        refuses=_refuses,
    ),
)
