# SPDX-License-Identifier: Apache-2.0
"""Which of the forms of the diagonal state-space model runs."""

from typing import Literal, get_args

from torch import Tensor

Mode = Literal["auto", "convolution", "chunked", "recurrent"]
MODES: tuple[str, ...] = get_args(Mode)


def choose(mode: str, backend: str, u: Tensor, modes: int) -> str:
    """What runs `mode` on `backend`: "convolution", "chunked", "cpu" or "triton".

    The Triton kernels walk through time in chunks, which is both of the forms with a state. "auto"
    on CPUs is the recurrence at every size: README.md has the times beside the convolution's.
    """
    if mode == "convolution":
        return mode
    if mode == "chunked" and backend == "cpu":
        return mode
    return backend
