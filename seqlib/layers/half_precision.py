# SPDX-License-Identifier: Apache-2.0
"""A word of warning about 16-bit models on CPUs that can't multiply 16-bit matrices."""

import functools
import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def warn_if_slow(weight: Tensor) -> None:
    """Say once that a model with this `weight` computes right, but 6 to 100 times slower."""
    if weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float16):
        _warn(weight.dtype)


@functools.cache
def _warn(dtype: torch.dtype) -> None:
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: False)
    if not supported():
        logger.warning(
            "this CPU has no %s matrix instructions: matrix products will be 6 to 100 times "
            "slower than in float32. Call model.float(), or load with dtype=torch.float32.",
            name,
        )
