# SPDX-License-Identifier: Apache-2.0
"""Functions that several families' Triton kernels need."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x) without overflow on either side; a NaN stays one."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1 + e)
