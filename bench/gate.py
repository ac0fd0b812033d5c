# SPDX-License-Identifier: Apache-2.0
"""The correctness gate: what computes something else has no speed."""

import math
from collections.abc import Collection, Mapping

import torch
from seqlib_kernels.testing import rel_err
from torch import Tensor

from .oracle import Result

# The largest error that passes, as `seqlib_kernels.testing.rel_err` measures it. Measured in
# float32 on the CPU suite: ours at most 2.0e-6, peers at most 2.1e-5 (a chunkwise form that takes
# differences of summed decays). One wrong step is an error near 1. The 16-bit bounds leave room
# for operands rounded inside chunks, a few times 4e-3 in bfloat16; they await a measurement.
BOUND = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def errors(got: Result, want: Result, constants: Collection[str] = ()) -> dict[str, float]:
    """The error of the output ("output") and of each gradient ("d" and the input's name).

    The gradients of `constants`, inputs without an axis of time, are compared as a whole.
    """
    found = {"output": error(got.output, want.output)}
    for name, gradient in want.gradients.items():
        time = None if name in constants else 1
        found[f"d{name}"] = error(got.gradients[name], gradient, time)
    return found


def error(got: Tensor, want: Tensor, time: int | None = 1) -> float:
    """`rel_err`, infinite where the shapes differ or something is not finite."""
    if got.shape != want.shape:
        return math.inf
    found = rel_err(got, want, time=time)
    return found if math.isfinite(found) else math.inf


def verdict(found: Mapping[str, float], dtype: torch.dtype) -> str | None:
    """None if every error is within the bound; else the worst, in words."""
    bound = BOUND[dtype]
    name, worst = max(found.items(), key=lambda pair: pair[1])
    return None if worst <= bound else f"{name} is off by {worst:.1e}, allowed {bound:.0e}"
