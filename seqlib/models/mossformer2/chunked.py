# SPDX-License-Identifier: Apache-2.0
"""Recordings of any length in bounded memory: windows that overlap, speakers kept in order."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

# A source is heard where it has this share of the energy that the loudest one has on average.
_HEARD = 1e-2

# What an order must gain over the last one, as a share of the energy of the overlap. Without
# signal nothing is gained, so the last order that was heard goes on.
_LAST_ORDER = 1e-3


def run_in_chunks(
    network: Callable[[Tensor], Tensor], samples: Tensor, *, window: int, overlap: int
) -> Tensor:
    """Run a network that returns sources in any order over a recording of any length.

    Windows of `window` samples overlap by `overlap`. Each is brought into the order of the one
    before by the overlap and faded in over it. Where fewer than all but one of the sources are
    heard in the overlap, the next window starts earlier, down to half a window. Every window is a
    clip of its own to the network: statistics and global attention reach no further.

    Args:
        network: [1, t] to [1, C, t]; called with t == window, or once with t == T <= window.
        samples: [T].
        window: the longest t; memory is the network's for it, and that of the result.
        overlap: at least 1, at most half of `window`.

    Returns:
        [C, T]; for T <= window what one call of the network gives.

    Raises:
        ValueError: samples are not [T], or sizes out of range.
    """
    if samples.dim() != 1:
        raise ValueError(f"samples must have shape (T,), got {tuple(samples.shape)}")
    if not 1 <= overlap <= window // 2:
        raise ValueError(
            f"overlap must be from 1 to half of window={window}, in samples, got {overlap}"
        )
    length = len(samples)
    done = network(samples[None, :window])[0]
    if length <= window:
        return done
    result = done.new_empty(len(done), length)
    result[:, :window] = done
    order = list(range(len(done)))
    start, end = 0, window
    while end < length:
        start = min(_next_start(result[:, start:end], end, overlap), length - window)
        estimate = network(samples[None, start : start + window])[0]
        shared = end - start
        order = _same_order(result[:, start:end], estimate[:, :shared], order)
        _fade_in(result[:, start:end], estimate[order, :shared])
        result[:, end : start + window] = estimate[order, shared:]
        end = start + window
    return result


def _next_start(before: Tensor, end: int, overlap: int) -> int:
    """The latest start from which on enough sources are heard to tell all of them apart."""
    count, window = before.shape
    needed = max(count - 1, 1)
    energy = before[:, -(window // 2) :].float().square().flip(-1).cumsum(-1, dtype=torch.float64)
    loudest = before.float().square().mean(-1).max()
    heard = (energy >= _HEARD * overlap * loudest).sum(0) >= needed
    if loudest > 0 and heard.any():
        overlap = max(overlap, int(heard.int().argmax()) + 1)
    return end - overlap


def _same_order(before: Tensor, after: Tensor, order: list[int]) -> list[int]:
    """The order of `after` with the smallest squared error against `before`."""
    before, after = before.float(), after.float()
    products = (before @ after.T).double()  # the squares in the error are those of every order
    scale = before.square().sum().double()
    gains = products / scale if scale > 0 else torch.zeros_like(products)
    for source, place in enumerate(order):
        gains[source, place] += _LAST_ORDER
    table = gains.tolist()
    orders = itertools.permutations(range(len(order)))
    return list(max(orders, key=lambda places: sum(map(list.__getitem__, table, places))))


def _fade_in(before: Tensor, after: Tensor) -> None:
    """Go over from one to the other inside `before`, with weights that add up to one."""
    count = before.shape[-1]
    phase = (torch.arange(count, device=before.device) + 0.5) * (torch.pi / (2 * count))
    before.lerp_(after, phase.sin().square().to(before.dtype))
