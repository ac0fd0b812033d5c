# SPDX-License-Identifier: Apache-2.0
"""The FSMN memory in torch: an elementwise prologue, one convolution of torch, the residual."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem

Convolution = Callable[[Tensor, Tensor, int], Tensor]


def transposed(a: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """conv1d on the transposed view of padded a [B, T, J C]; weight [C, J, W]."""
    return F.conv1d(a.mT, weight, dilation=dilation, groups=len(weight)).mT


def channels_last(a: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """conv2d on the view of a that already is in torch's memory format of channels last."""
    image = a.mT[..., None]
    mixed = F.conv2d(image, weight[..., None], dilation=(dilation, 1), groups=len(weight))
    return mixed[..., 0].mT


def _memory(convolution: Convolution) -> Callable[..., Tensor]:
    def memory(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        *,
        activation: str | None = None,
        dilation: int = 1,
        causal: bool = False,
        residual: bool = True,
    ) -> Tensor:
        if scale is not None:
            x = x * scale[..., None]
        if bias is not None:
            x = x + bias
        a = F.silu(x) if activation == "silu" else x
        weight = weight[..., 0]
        reach = dilation * (weight.shape[2] - 1)
        before = reach if causal else reach // 2
        y = convolution(F.pad(a, (0, 0, before, reach - before)), weight, dilation)
        return a + y if residual else y

    return memory


def _contender(name: str, convolution: Convolution) -> Contender:
    def prepare(problem: Problem) -> Call:
        return TorchCall(_memory(convolution), problem)

    return Contender(name=name, prepare=prepare)


CONTENDERS = (
    _contender("torch conv1d", transposed),
    _contender("torch conv2d, channels last", channels_last),
)
