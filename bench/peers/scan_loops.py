# SPDX-License-Identifier: Apache-2.0
"""The scan as loops of torch operations over time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contender import Contender, TorchCall


def loop(a: Tensor, b: Tensor) -> Tensor:
    """One step after the other; autograd keeps the graph of all of them."""
    h = torch.zeros_like(b[:, 0])
    outputs = []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = torch.addcmul(b_t, a_t, h)
        outputs.append(h)
    return torch.stack(outputs, 1)


class _TwoLoops(torch.autograd.Function):
    """h_t = a_t h_{t-1} + b_t forward; g_t = dh_t + a_{t+1} g_{t+1} backward."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = torch.empty_like(b)
        before = torch.zeros_like(b[:, 0])
        for a_t, b_t, h_t in zip(a.unbind(1), b.unbind(1), h.unbind(1), strict=True):
            torch.addcmul(b_t, a_t, before, out=h_t)
            before = h_t
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        g = torch.empty_like(h)
        g[:, -1] = dh[:, -1]
        a_T, dh_T, g_T = a.unbind(1), dh.unbind(1), g.unbind(1)
        for t in range(h.shape[1] - 2, -1, -1):
            torch.addcmul(dh_T[t], a_T[t + 1], g_T[t + 1], out=g_T[t])
        da = torch.zeros_like(a)
        torch.mul(g[:, 1:], h[:, :-1], out=da[:, 1:])
        return da, g


def two_level(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(T) blocks of sqrt(T) steps: all blocks walk at once, then their ends are joined."""
    B, T, D = b.shape
    length = max(1, round(T**0.5))
    blocks = -(-T // length)
    pad = (0, 0, 0, blocks * length - T)
    a, b = (F.pad(x, pad).view(B, blocks, length, D) for x in (a, b))
    h, gain = torch.zeros_like(b[:, :, 0]), torch.ones_like(a[:, :, 0])
    inside, gains = [], []
    for a_t, b_t in zip(a.unbind(2), b.unbind(2), strict=True):
        h = torch.addcmul(b_t, a_t, h)
        gain = gain * a_t
        inside.append(h)
        gains.append(gain)
    state = torch.zeros_like(b[:, 0, 0])
    entering = []
    for gain_n, end_n in zip(gain.unbind(1), h.unbind(1), strict=True):
        entering.append(state)
        state = torch.addcmul(end_n, gain_n, state)
    before = torch.stack(entering, 1)[:, :, None]
    whole = torch.addcmul(torch.stack(inside, 2), torch.stack(gains, 2), before)
    return whole.view(B, blocks * length, D)[:, :T]


CONTENDERS = (
    Contender(
        name="torch loop",
        prepare=lambda problem: TorchCall(loop, problem),
        device="cpu",
        sequential=True,
    ),
    Contender(
        name="torch loop, own backward",
        prepare=lambda problem: TorchCall(_TwoLoops.apply, problem),
        device="cpu",
        sequential=True,
    ),
    Contender(
        name="torch two-level",
        prepare=lambda problem: TorchCall(two_level, problem),
        device="cpu",
    ),
)
