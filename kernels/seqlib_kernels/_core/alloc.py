# SPDX-License-Identifier: Apache-2.0
"""The one place where kernels get output memory, so that tests can fence and poison it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised contiguous memory on the device of `like`, in its dtype unless one is given."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
