# SPDX-License-Identifier: Apache-2.0
"""A projection with a short convolution behind it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from seqlib_kernels import fsmn_memory
from torch import Tensor, nn

from ..norm import LayerNorm
from .norms import ScaleNorm, root_mean_square

_SLICE = 256  # channels; of 64 to 4096 the fastest, measured with 4000 frames


class ConvolvedProjection(nn.Module):
    """`z + convolve(z)` of `z = silu(linear(norm(x)))`, then dropout.

    The convolution is depthwise over time, without bias and with zeros around the sequence. The
    factor of a scale norm, the bias, SiLU and the residual are part of its operator.

    Args:
        in_features, out_features: sizes of the last axis.
        norm: "scale", one factor per frame, or "layer".
        kernel_size: taps of the convolution; odd, unless causal.
        causal: taps reach back only.
        dropout: probability of a zero in the output, in training.

    State: [B, kernel_size - 1, out_features] the last rows of z, in float32 at least.
    """

    no_weight_decay: ClassVar = ("taps",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        norm: str = "scale",
        kernel_size: int = 17,
        causal: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if norm not in ("scale", "layer"):
            raise ValueError(f"norm must be 'scale' or 'layer', got {norm!r}")
        self.causal, self.dropout = causal, dropout
        self.norm = ScaleNorm() if norm == "scale" else LayerNorm(in_features, 1e-5)
        self.linear = nn.Linear(in_features, out_features)
        self.taps = nn.Parameter(torch.empty(out_features, kernel_size))
        with torch.no_grad():
            self.taps.copy_(self.initial_values()["taps"])

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh taps, uniform as those of torch's convolutions."""
        return {"taps": uniform(self.taps.shape, self.taps.shape[1])}

    def forward(
        self,
        x: Tensor,
        *,
        rms: Tensor | None = None,
        state: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Project and convolve.

        Args:
            x: [B, T, in_features].
            rms: [B, T] `root_mean_square` of x, for whoever has it already.
            state: what an earlier call returned; of the causal form only.
            cu_seqlens: [N+1] boundaries of sequences packed into B = 1.
            return_state: also return the state after the last frame.

        Returns:
            y: [B, T, out_features].
            state: or None.
        """
        scale = None
        if isinstance(self.norm, ScaleNorm):
            scale = self.norm(root_mean_square(x) if rms is None else rms)
        else:
            x = self.norm(x)
        options = {"scale": scale, "cu_seqlens": cu_seqlens}
        if self._to_be_sliced(x) and state is None and not return_state:
            y = self._in_slices(x, options)
        else:
            options |= {"initial_state": state, "return_final_state": return_state}
            y, state = self._convolved(x, slice(None), options)
        return drop(y, self.dropout, self.training), state

    def _convolved(self, x: Tensor, channels: slice, options: Mapping[str, Any]) -> Any:
        """Some of the channels of y, and their state."""
        return fsmn_memory(
            F.linear(x, self.linear.weight[channels]),
            self.taps[channels],
            self.linear.bias[channels],
            activation="silu",
            causal=self.causal,
            **options,
        )

    def _to_be_sliced(self, x: Tensor) -> bool:
        return len(self.taps) > _SLICE and x.is_cpu and not torch.is_grad_enabled()

    def _in_slices(self, x: Tensor, options: Mapping[str, Any]) -> Tensor:
        """y without a second array of its size; products stay in caches until they are read."""
        y = x.new_empty(0)
        for first in range(0, len(self.taps), _SLICE):
            at = slice(first, first + _SLICE)
            part, _ = self._convolved(x, at, options)
            if first == 0:
                y = part.new_empty((*x.shape[:2], len(self.taps)))
            y[..., at] = part
        return y


def uniform(shape: torch.Size, fan_in: int) -> Tensor:
    """Values as torch's linear maps and convolutions of `fan_in` inputs start from."""
    return torch.empty(shape, device="cpu").uniform_(-(fan_in**-0.5), fan_in**-0.5)


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout that keeps a byte per element for its gradient, on every device."""
    if not training or probability == 0:
        return x
    return torch.native_dropout(x, probability, True)[0]
