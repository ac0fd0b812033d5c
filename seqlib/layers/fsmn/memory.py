# SPDX-License-Identifier: Apache-2.0
"""Feed-forward sequential memory: a long depthwise convolution beside a projection."""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from seqlib_kernels import dense_fsmn_memory, fsmn_memory
from torch import Tensor, nn

from .norms import frame_norm
from .projection import uniform

_EPS = 1e-5


class FsmnMemory(nn.Module):
    """What both memories begin with: `p = project(relu(linear(u)))`.

    Args:
        channels: C, of inputs and outputs.
        order: L: taps reach L - 1 frames to either side; causal: L taps reach back only.

    State, of the causal forms: {"taps1": [B, d (L-1), J C], ...}, the last inputs of every
    convolution, in float32 at least.
    """

    def __init__(self, channels: int, order: int, causal: bool):
        super().__init__()
        self.causal = causal
        self.width = order if causal else 2 * order - 1
        self.linear = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels, bias=False)

    def forward(
        self,
        u: Tensor,
        *,
        state: dict[str, Tensor] | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Args: u: [B, T, C]; cu_seqlens: [N+1]. Returns y [B, T, C] and the state or None."""
        p = self.project(F.relu(self.linear(u)))
        remembered, after = self._remember(p, state, cu_seqlens, return_state)
        return u + remembered, after

    def _remember(
        self,
        p: Tensor,
        state: dict[str, Tensor] | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        raise NotImplementedError


class PlainMemory(FsmnMemory):
    """`u + p + convolve(p)`. Source: arXiv 1803.05030."""

    no_weight_decay: ClassVar = ("taps",)

    def __init__(self, channels: int, *, order: int = 20, causal: bool = False):
        super().__init__(channels, order, causal)
        self.taps = nn.Parameter(torch.empty(channels, self.width))
        with torch.no_grad():
            self.taps.copy_(self.initial_values()["taps"])

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh taps, uniform as those of torch's convolutions."""
        return {"taps": uniform(self.taps.shape, self.width)}

    def _remember(
        self,
        p: Tensor,
        state: dict[str, Tensor] | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        y, after = fsmn_memory(
            p,
            self.taps,
            causal=self.causal,
            initial_state=None if state is None else state["taps1"],
            return_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        return y, None if after is None else {"taps1": after}


class MemoryConvolution(nn.Module):
    """The parameters of one convolution, its norm and its PReLU.

    Args:
        channels: C.
        inputs: J, channels that each output channel reads.
        width: W, taps.
    """

    no_weight_decay: ClassVar = ("taps", "gain", "shift", "slope")

    def __init__(self, channels: int, inputs: int, width: int):
        super().__init__()
        self.taps = nn.Parameter(torch.empty(channels, inputs, width))
        self.gain = nn.Parameter(torch.empty(channels))
        self.shift = nn.Parameter(torch.empty(channels))
        self.slope = nn.Parameter(torch.empty(channels))
        with torch.no_grad():
            for name, value in self.initial_values().items():
                getattr(self, name).copy_(value)

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values as those of torch's modules: taps uniform, a slope of 1/4."""
        channels, inputs, width = self.taps.shape
        return {
            "taps": uniform(self.taps.shape, inputs * width),
            "gain": torch.ones(channels),
            "shift": torch.zeros(channels),
            "slope": torch.full((channels,), 0.25),
        }


class DilatedMemory(FsmnMemory):
    """`u + o_depth`, convolutions of growing dilation that each read all earlier outputs.

    With cat_0 = p: a_i = conv_i(cat_(i-1)), o_i = prelu(norm(a_i)), cat_i = [o_i, cat_(i-1)];
    channel c of conv_i reads channels i c to i c + i - 1 of the concatenation, at dilation
    2^(i-1). The norm is over the frames of a sequence, per channel; causal: over the channels of
    a frame. Source: arXiv 2312.11825.
    """

    def __init__(self, channels: int, *, order: int = 20, depth: int = 2, causal: bool = False):
        super().__init__(channels, order, causal)
        self.convolutions = nn.ModuleList(
            MemoryConvolution(channels, i, self.width) for i in range(1, depth + 1)
        )

    def _remember(
        self,
        p: Tensor,
        state: dict[str, Tensor] | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        convolutions = cast(Sequence[MemoryConvolution], self.convolutions)
        if not self.causal:
            taps = torch.cat([conv.taps for conv in convolutions], 1)
            gain = torch.stack([conv.gain for conv in convolutions])
            shift = torch.stack([conv.shift for conv in convolutions])
            slope = torch.stack([conv.slope for conv in convolutions])
            y, _ = dense_fsmn_memory(p, taps, gain, shift, slope, eps=_EPS, cu_seqlens=cu_seqlens)
            return y, None
        after, out, known = {}, p, p
        for i, conv in enumerate(convolutions, 1):
            a, last = fsmn_memory(
                known,
                conv.taps,
                dilation=2 ** (i - 1),
                causal=True,
                residual=False,
                initial_state=None if state is None else state[f"taps{i}"],
                return_final_state=return_state,
                cu_seqlens=cu_seqlens,
            )
            after[f"taps{i}"] = last
            a = frame_norm(a, conv.gain, conv.shift, _EPS)
            out = torch.where(a > 0, a, a * conv.slope.to(a.dtype))
            known = torch.cat((out, known), -1)
        return out, after if return_state else None
