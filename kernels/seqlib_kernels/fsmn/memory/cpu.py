# SPDX-License-Identifier: Apache-2.0
"""The FSMN memory on CPUs: outputs, and jobs for threads. The loops are in cpu_taps.py."""

import numpy as np
from torch import Tensor

from ..._core import alloc, threads
from ..._core.lowp import array, rows
from ..._core.varlen import bounds_of
from . import cpu_taps
from .arguments import Options, Tensors
from .cpu_rows import LANES


def forward(given: Tensors, options: Options) -> tuple[Tensor, Tensor]:
    """y [B,T,C] and hT [N,S,J C]; see `op.py`."""
    plan = _Plan(given, options)
    y = alloc.empty((*given.x.shape[:2], plan.C), given.x)
    hT = alloc.empty(given.state_shape(options), given.weight)
    plan.run(cpu_taps.forward, _inputs(given, hT), rows(y), array(hT))
    return y, hT


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, options: Options
) -> tuple[Tensor | None, ...]:
    """The gradients of x, weight, bias, scale and h0; see `op.py`."""
    plan, (C, J, W) = _Plan(given, options), given.weight.shape
    dx, dh0 = alloc.empty(given.x.shape, given.x), alloc.empty(dhT.shape, dhT)
    # Sequences and phases share in the gradients of weight and bias, blocks of channels in that of
    # scale: parts in a fixed order, so that sums don't depend on threads.
    sums = alloc.empty((plan.sequences * options.dilation, J, W + 1, C), given.weight)
    parts = alloc.empty((plan.blocks, *given.x.shape[:2]), given.weight)
    grads = (rows(dx), array(sums), array(parts.flatten(1)), array(dh0))
    plan.run(cpu_taps.backward, _inputs(given, dhT), rows(dy), array(dhT), grads)
    total = sums.sum(0)
    dweight = total[:, :W].permute(2, 0, 1).contiguous()
    dbias = None if given.bias is None else total[:, W].T.flatten().clone()
    return dx, dweight, dbias, None if given.scale is None else parts.sum(0), dh0


class _Plan:
    """How one call is cut into jobs, numbered [sequence, block of channels, phase]."""

    def __init__(self, given: Tensors, options: Options) -> None:
        batch, T, _ = given.x.shape
        self.C, _, taps = given.weight.shape
        self.bounds = bounds_of(given.cu_seqlens, batch, T)
        self.sequences = given.sequences
        self.options = tuple(options)
        self.blocks = -(-self.C // LANES)
        self.jobs = self.sequences * self.blocks * options.dilation
        self.threads = threads.count(given.x.numel() * taps, 1 << 18)

    def run(self, kernel, *arguments) -> None:
        def work(first: int, last: int) -> None:
            kernel(*arguments, self.bounds, self.options, first, last)

        threads.split(work, self.jobs, self.threads)


def _inputs(given: Tensors, state: Tensor) -> tuple[np.ndarray, ...]:
    """The inputs as the loops read them: rows of steps, and what changes nothing if not given."""
    x, weight, bias, scale, h0, _ = given
    bias = weight.new_zeros(x.shape[2]) if bias is None else bias
    scale = weight.new_ones(x.shape[:2]) if scale is None else scale
    h0 = weight.new_zeros(state.shape) if h0 is None else h0
    taps = array(weight.permute(1, 2, 0).contiguous())
    return rows(x), taps, array(bias), array(scale.flatten()), array(h0)
