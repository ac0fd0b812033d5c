# SPDX-License-Identifier: Apache-2.0
"""The dtype policy: which dtypes ops accept and in which one they accumulate."""

import torch

REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex128, torch.complex64)

_STATE = {
    torch.float64: torch.float64,
    torch.complex128: torch.complex128,
    torch.complex64: torch.complex64,
}


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states and sums for inputs of `dtype`: float32, and never less than given."""
    return _STATE.get(dtype, torch.float32)
