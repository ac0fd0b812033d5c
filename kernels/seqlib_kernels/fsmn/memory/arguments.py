# SPDX-License-Identifier: Apache-2.0
"""The tensors and options of one call under one name, for checks, operators and both backends."""

from typing import NamedTuple

from torch import Tensor


class Options(NamedTuple):
    """The options of `op.fsmn_memory` that change results, in the order of its operators."""

    silu: bool
    dilation: int
    causal: bool
    residual: bool


class Tensors(NamedTuple):
    """The arguments of `op.fsmn_memory` that are tensors, in the order of its operators.

    The weight is [C, J, W]; weight, bias and scale have the state's dtype.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    h0: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def sequences(self) -> int:
        """The number N of sequences."""
        return self.x.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    def state_shape(self, options: Options) -> tuple[int, int, int]:
        """[N, d (W-1), J C] of the rows that are handed over; nothing when both sides are seen."""
        rows = options.dilation * (self.weight.shape[2] - 1)
        return self.sequences if options.causal else 0, rows, self.x.shape[2]
