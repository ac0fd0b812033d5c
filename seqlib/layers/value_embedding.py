# SPDX-License-Identifier: Apache-2.0
"""Steps of real numbers, such as pixels, in place of tokens."""

from typing import Any

import torch
from torch import Tensor, nn


class ValueEmbedding(nn.Linear):
    """A linear map with bias from F numbers a step to D channels.

    It starts uniform in +-1 / sqrt(F), bias included: with a bias of 0 a norm right behind it
    would take away the size of a single number.
    """

    def __init__(self, num_features: int, hidden_size: int):
        super().__init__(num_features, hidden_size)

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh weight and bias."""
        bound = self.in_features**-0.5
        shapes: dict[str, Any] = {"weight": self.weight.shape, "bias": self.bias.shape}
        return {
            name: torch.empty(shape, device="cpu").uniform_(-bound, bound)
            for name, shape in shapes.items()
        }

    def forward(self, input: Tensor) -> Tensor:
        """Args: input: [B, T, F] of any real dtype. Returns [B, T, D] in the weight's dtype.

        Raises:
            ValueError: another shape.
        """
        if input.ndim != 3 or input.shape[-1] != self.in_features:
            raise ValueError(
                f"input_values must have shape (B, T, {self.in_features}), got {tuple(input.shape)}"
            )
        return super().forward(input.to(self.weight.dtype))
