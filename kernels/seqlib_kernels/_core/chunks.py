# SPDX-License-Identifier: Apache-2.0
"""What families that work through chunks of tokens choose before a launch; no Triton here."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import interpreting
from .dtypes import state_dtype
from .launch import Launch


@dataclass(frozen=True)
class Arithmetic:
    """What kernels multiply with.

    Attributes:
        dot: the dtype of dot operands; sums have the state's dtype.
        kept: the dtype of tensors that pass from kernel to kernel.
        precision: Triton's `input_precision` of dots of float32 operands.
        exact: the same for the few products whose operands stay in the state's dtype.
    """

    dot: torch.dtype
    kept: torch.dtype
    precision: str
    exact: str


def arithmetic(dtype: torch.dtype, row: Launch) -> Arithmetic:
    """The arithmetic for inputs of `dtype` on the device of `row`.

    bfloat16 feeds the matrix units as it is. float16 goes through TF32, which holds its 11 bits
    and, unlike float16, the range of unbounded states; float32 takes three TF32 products. AMD's
    matrix units and the interpreter multiply float32 exactly.
    """
    wide = state_dtype(dtype)
    if interpreting():
        return Arithmetic(wide, dtype if dtype == torch.bfloat16 else wide, "ieee", "ieee")
    amd = torch.version.hip is not None or row.arch.startswith("gfx")
    exact = "ieee" if amd or wide == torch.float64 else "tf32x3"
    if dtype == torch.bfloat16:
        return Arithmetic(dtype, dtype, "ieee" if amd else "tf32", exact)
    return Arithmetic(wide, wide, "tf32" if dtype == torch.float16 and not amd else exact, exact)


def itemsize(dtype: torch.dtype) -> int:
    """The bytes of a number in the kernels for inputs of `dtype`."""
    return (dtype if dtype == torch.bfloat16 else state_dtype(dtype)).itemsize


def slots(batch: int, T: int, sequences: int, span: int) -> int:
    """How many pieces of `span` tokens there may be: known without the values of `cu_seqlens`."""
    if sequences == batch:
        return batch * ((T + span - 1) // span)
    return T // span + sequences


def or_unread(x: Tensor | None, unread: Tensor) -> Tensor:
    """`x`, or another pointer in the place of an argument that the kernel won't read."""
    return unread if x is None else x
