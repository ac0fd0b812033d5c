# SPDX-License-Identifier: Apache-2.0
"""The MIMO state-space model on CPUs: spans of rows, and jobs for threads. Loops: cpu_scan.py."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._core import alloc, threads
from ..._core.dtypes import state_dtype
from ..._core.lowp import rows
from ..._core.matmul import VECTOR_BYTES
from ..._core.rows import WIDTH
from ..._core.varlen import bounds_of
from ..pairs import conj
from . import cpu_rates, cpu_scan
from .arguments import Rate, Tensors
from .cpu_scan import GROUP, KEEP, LANES, STATES, TILE


def saved_shapes(given: Tensors) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """The states kept for the backward pass, one per KEEP rows."""
    batch, T, _ = given.u.shape
    return [((-(-batch * T // KEEP), _wide(given)), torch.float64)]


def forward(
    given: Tensors, reverse: bool, save: bool, rate: Rate | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y [B,T,H], hT [Nseq,P,2] and the states that `backward` starts from."""
    walk, u, H, wide = _Walk(given, reverse), given.u, given.u.shape[2], _wide(given)
    y = alloc.empty(u.shape, u)
    kept = [alloc.empty(shape, u, dtype) for shape, dtype in saved_shapes(given) if save]
    into, out_of, D = _matrices(given)
    W_in, W_out = walk.weights(into), walk.weights(out_of.T)
    steps = _steps(given, walk, rate)
    state, h0 = np.zeros((wide // GROUP, GROUP)), _boundary(given.h0, given)
    hT, U, V = h0.copy(), walk.work(H), walk.work(wide)
    for at, r0, r1 in walk.spans(2):
        walk.run(cpu_scan.project, TILE, r1 - r0, V, U, rows(u)[r0:r1], W_in, wide)
        steps.spread(V, V, r0, r1)
        keep = kept[0].numpy()[at // KEEP :] if save else np.empty((0, 0))
        cpu_scan.advance(V, state, steps.table, h0, hT, keep, walk.bounds, r0, r1, reverse)
        walk.run(cpu_scan.read, TILE, r1 - r0, rows(y)[r0:r1], V, W_out, rows(u)[r0:r1], D)
    return y, _pairs(hT, given), kept


def backward(
    dy: Tensor,
    dhT: Tensor,
    given: Tensors,
    saved: list[Tensor],
    reverse: bool,
    rate: Rate | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of u, a, B, C, D and h0, and that of a rate per token if there is one."""
    walk, u, H, wide = _Walk(given, reverse), given.u, given.u.shape[2], _wide(given)
    du = alloc.empty(u.shape, u)
    into, out_of, D = _matrices(given)
    W_u, W_y, W_s = (walk.weights(x) for x in (into, out_of, into.T))
    steps, h0, kept = _steps(given, walk, rate), _boundary(given.h0, given), saved[0].numpy()
    carry, dh0, unread = np.zeros((wide // GROUP, GROUP)), _boundary(dhT, given), np.empty_like(h0)
    dB, dC, dD = np.zeros((wide, H)), np.zeros((wide, H)), np.zeros(H)
    U, Y, V, G = (walk.work(size) for size in (H, H, wide, wide))
    W = V if rate is None else walk.work(wide)
    for at, r0, r1 in reversed(walk.spans(1)):
        walk.run(cpu_scan.project, TILE, r1 - r0, W, U, rows(u)[r0:r1], W_u, wide)
        walk.run(cpu_scan.project, TILE, r1 - r0, G, Y, rows(dy)[r0:r1], W_y, wide)
        steps.spread(V, W, r0, r1)
        state, entering = kept[at // KEEP].reshape(-1, GROUP), kept[at // KEEP].astype(V.dtype)
        ends = (walk.bounds, r0, r1, reverse)
        cpu_scan.advance(V, state.copy(), steps.table, h0, unread, np.empty((0, 0)), *ends)
        cpu_scan.retreat(G, V, carry, steps.table, h0, entering, dh0, *ends)
        steps.gather(G, W, r0, r1)
        walk.run(cpu_scan.read, TILE, r1 - r0, rows(du)[r0:r1], G, W_s, rows(dy)[r0:r1], D)
        walk.run(cpu_scan.collect, STATES, wide, dB, dC, dD, U, Y, V, G, r1 - r0)
    dB, dC = _pairs(dB.T, given).movedim(0, 1).contiguous(), conj(_pairs(dC.T, given))
    dD = None if given.D is None else torch.from_numpy(dD)
    da = _pairs(steps.gradient().reshape(wide), given)
    return du, da, dB, dC, dD, _pairs(dh0, given), *steps.more


class _Steps:
    """One multiplier of the states for all tokens, and its gradient behind it in `table`."""

    more: tuple[Tensor, ...] = ()

    def __init__(self, given: Tensors) -> None:
        a = _lanes(given.a.numpy()).reshape(_wide(given) // GROUP, GROUP)
        self.table = np.concatenate((a, np.zeros_like(a)), 1)[None]

    def spread(self, V: np.ndarray, W: np.ndarray, r0: int, r1: int) -> None:
        """Multipliers of the rows [r0, r1), and what enters the scan from what was projected."""

    def gather(self, G: np.ndarray, W: np.ndarray, r0: int, r1: int) -> None:
        """Gradients of the multipliers, and in G of what was projected."""

    def gradient(self) -> np.ndarray:
        """That of what is in the place of `a`, by groups."""
        return self.table[0, :, GROUP:]


class _StepsOfTokens(_Steps):
    """Multipliers for every token, of one span at a time."""

    def __init__(self, given: Tensors, walk: "_Walk", rate: Rate) -> None:
        self.walk, self.zoh, self.rate = walk, rate.zoh, rate.of_tokens.flatten().numpy()
        self.z = _lanes(given.a.numpy()).reshape(_wide(given) // GROUP, GROUP)
        self.table = np.empty((walk.most_rows, len(self.z), 2 * GROUP))
        self.parts = np.zeros((-(-len(self.table) // TILE), *self.z.shape))
        self.total = np.zeros_like(self.z)
        drate = alloc.empty(rate.of_tokens.shape, rate.of_tokens)
        self.more, self.drate = (drate,), drate.flatten().numpy()

    def spread(self, V: np.ndarray, W: np.ndarray, r0: int, r1: int) -> None:
        rate = self.rate[r0:r1]
        self.walk.run(cpu_rates.spread, TILE, r1 - r0, V, W, self.table, self.z, rate, self.zoh)

    def gather(self, G: np.ndarray, W: np.ndarray, r0: int, r1: int) -> None:
        given = (G, W, self.table, self.z, self.rate[r0:r1], self.zoh)
        self.walk.run(cpu_rates.gather, TILE, r1 - r0, *given, self.parts, self.drate[r0:r1])
        self.total += self.parts[: -(-(r1 - r0) // TILE)].sum(0)

    def gradient(self) -> np.ndarray:
        return self.total


def _steps(given: Tensors, walk: "_Walk", rate: Rate | None) -> _Steps:
    return _Steps(given) if rate is None else _StepsOfTokens(given, walk, rate)


class _Walk:
    """The rows of a call in the order of its scan, and the threads it is worth."""

    def __init__(self, given: Tensors, reverse: bool) -> None:
        batch, T, H = given.u.shape
        self.rows, self.reverse = batch * T, reverse
        self.bounds = bounds_of(given.cu_seqlens, batch, T)
        self.threads = threads.count(self.rows * H * _wide(given) // 16)
        self.dtype = _dtype(given)
        self.span = KEEP if self.threads == 1 else 4 * KEEP * self.threads
        self.most_rows = -(-min(2 * self.span, self.rows) // TILE) * TILE

    def spans(self, factor: int) -> list[tuple[int, int, int]]:
        """The place of every span in the walk, and its rows [r0, r1)."""
        length, total = factor * self.span, self.rows
        spans = ((at, min(at + length, total)) for at in range(0, total, length))
        return [(i, total - j, total - i) if self.reverse else (i, i, j) for i, j in spans]

    def run(self, kernel: Any, grain: int, size: int, *arguments: Any) -> None:
        """Run `kernel` on jobs of so many of `size` rows or numbers each."""

        def work(first: int, last: int) -> None:
            kernel(*arguments, first, last)

        threads.split(work, -(-size // grain), self.threads)

    def work(self, size: int) -> np.ndarray:
        """A work array for rows of so many numbers."""
        return np.empty((self.most_rows, _stride(size, self.dtype)), self.dtype)

    def weights(self, W: np.ndarray) -> np.ndarray:
        """A matrix as the products read it."""
        padded = np.zeros((W.shape[0], _stride(W.shape[1], self.dtype)), self.dtype)
        padded[:, : W.shape[1]] = W
        return padded


# What follows is small, and NumPy's: torch would start its threads for it, whose barriers take
# milliseconds on a busy machine.


def _dtype(given: Tensors) -> np.dtype:
    """That of states and work arrays."""
    return np.dtype(str(state_dtype(given.u.dtype)).removeprefix("torch."))


def _stride(size: int, dtype: np.dtype) -> int:
    """The length of rows: whole tiles, and an odd number of vectors, see `product_columns`."""
    vector = VECTOR_BYTES // dtype.itemsize
    return ((-(-size // WIDTH) * WIDTH // vector) | 1) * vector


def _wide(given: Tensors) -> int:
    """The numbers that make a state, see cpu_scan.py."""
    return -(-given.a.shape[0] // LANES) * GROUP


def _lanes(x: np.ndarray) -> np.ndarray:
    """Pairs [..., P, 2] as rows [..., wide]."""
    *more, P, _ = x.shape
    groups = -(-P // LANES)
    padded = np.zeros((*more, groups * LANES, 2), x.dtype)
    padded[..., :P, :] = x
    turned = padded.reshape(*more, groups, LANES, 2).swapaxes(-1, -2)
    return turned.reshape(*more, groups * GROUP)


def _pairs(x: np.ndarray, given: Tensors) -> Tensor:
    """Rows [..., wide] as pairs [..., P, 2]."""
    *more, wide = x.shape
    turned = x.reshape(*more, wide // GROUP, 2, LANES).swapaxes(-1, -2)
    pairs = turned.reshape(*more, wide // 2, 2)[..., : given.a.shape[0], :]
    return torch.from_numpy(np.ascontiguousarray(pairs))


def _boundary(x: Tensor | None, given: Tensors) -> np.ndarray:
    """States [Nseq,P,2] at one end of the sequences, or zeros, as rows [Nseq, wide]."""
    if x is None:
        return np.zeros((given.sequences, _wide(given)), _dtype(given))
    return _lanes(x.numpy())


def _matrices(given: Tensors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What turns u into states and, transposed, states into y, [H, wide]; and the factors D."""
    dtype = _dtype(given)
    B, C = (x.numpy().astype(dtype) for x in (given.B, given.C))
    D = np.zeros(given.u.shape[2], dtype) if given.D is None else given.D.numpy().astype(dtype)
    return _lanes(B.swapaxes(0, 1)), _lanes(C * np.array((1, -1), dtype)), D
