# SPDX-License-Identifier: Apache-2.0
"""The dense dilated memory as usually written: pads, grouped convolutions, concatenations."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem

Layer = Sequence[Tensor]


def convolve_densely(p: Tensor, layers: Iterable[Layer], eps: float = 1e-5) -> Tensor:
    """The last layer's output [B, T, C] of p; layers are taps [C, i, W, 1], gain, shift, slope."""
    out = known = p.transpose(1, 2)[..., None]  # [B,C,T,1]
    for i, (taps, gain, shift, slope) in enumerate(layers):
        dilation = 2**i
        reach = dilation * (taps.shape[2] // 2)
        padded = F.pad(known, (0, 0, reach, reach))
        a = F.conv2d(padded, taps, dilation=(dilation, 1), groups=taps.shape[0])
        a = F.instance_norm(a, weight=gain, bias=shift, eps=eps)
        out = F.prelu(a, slope)
        known = torch.cat((out, known), 1)
    return out[..., 0].transpose(1, 2)


def _memory(
    x: Tensor, weight: Tensor, gain: Tensor, shift: Tensor, slope: Tensor, *, eps: float = 1e-5
) -> Tensor:
    taps = weight[..., None].split(list(range(1, len(gain) + 1)), 1)
    return convolve_densely(x, zip(taps, gain, shift, slope, strict=True), eps)


def _prepare(problem: Problem) -> Call:
    return TorchCall(_memory, problem)


CONTENDERS = (Contender(name="torch conv2d, instance_norm", prepare=_prepare),)
