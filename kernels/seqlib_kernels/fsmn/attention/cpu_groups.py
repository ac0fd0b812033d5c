# SPDX-License-Identifier: Apache-2.0
"""A call of joint attention on CPUs, cut into parts: heads, P, A and memory of one of them.

A part is a group, or several small ones if they are not causal: their matrix products are batches,
as calls cost more than small products do.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._core import threads
from ..._core.lowp import array
from ..._core.varlen import bounds_of
from . import cpu_rows

QUAD_Q, LIN_Q, QUAD_K, LIN_K = range(4)
_ROWS = 512  # of a part at most, if a group is not larger
_BLOCK = 64  # rows of a causal P, above whose diagonal little is multiplied
_ALL = np.empty((0, 0), np.bool_)  # the place of `keep` where everything is kept


class Part(NamedTuple):
    """Rows of one part, number j of its sequence, at frames `frames` of it.

    M [S,2E] is the memory that it reads, in this slot, and `factor` is to be multiplied with it.
    """

    j: int
    rows: slice
    frames: slice
    slot: int
    M: Tensor
    factor: float

    @property
    def size(self) -> int:
        return self.rows.stop - self.rows.start


class Call:
    """The tensors of a call as rows, and work arrays of one part."""

    def __init__(
        self,
        z: Tensor,
        qk: Tensor,
        gamma: Tensor,
        beta: Tensor,
        freqs: Tensor,
        keep: Tensor | None,
        cu_seqlens: Tensor | None,
        memory: Tensor,
        group_size: int,
        causal: bool,
        per_group: bool,
        keep_scale: float,
    ) -> None:
        self.z, self.qk = z.detach().flatten(0, 1), qk.detach().flatten(0, 1)
        self.gamma, self.beta = array(gamma), array(beta)
        self.keep = None if keep is None else keep.flatten(0, 1)
        self.memory, self.G, self.causal, self.per_group = memory, group_size, causal, per_group
        self.keep_scale, self.dtype = keep_scale, gamma.dtype
        self.number = self.gamma.dtype.type
        self.bounds = bounds_of(cu_seqlens, *z.shape[:2])
        self.packed = cu_seqlens is not None
        longest = int(np.diff(self.bounds).max(initial=0))
        angles = torch.arange(longest, dtype=torch.float64)[:, None] * freqs.double()
        self.cos, self.sin = (x.to(self.dtype).numpy() for x in (angles.cos(), angles.sin()))
        self.together = 1 if causal else max(1, _ROWS // group_size)
        self.most = min(self.together * group_size, longest)
        self.heads = [self.work(qk.shape[2]) for _ in range(4)]
        self.P, self.root = (self.work(min(group_size, longest)) for _ in range(2))
        self.A = self.work(z.shape[2])
        self.wide = None if z.dtype == self.dtype else self.work(z.shape[2])

    def work(self, columns: int) -> Tensor:
        """A work array for a part."""
        return torch.empty(self.most * columns, dtype=self.dtype)

    def sequences(self) -> Iterator[list[Part]]:
        """The parts of every sequence."""
        G, slot = self.G, 0
        for n, (start, stop) in enumerate(pairwise(self.bounds.tolist())):
            if not self.causal:
                slot = n
            elif self.packed:
                slot = start // G + n
            parts, length = [], stop - start
            whole = length // G * G
            edges = [*range(0, whole, self.together * G), whole, length]
            for j, (first, last) in enumerate(x for x in pairwise(edges) if x[0] < x[1]):
                at = slice(start + first, start + last), slice(first, last)
                frames = length
                if self.causal:
                    frames = G if self.per_group else max(1, first)
                parts.append(Part(j, *at, slot, self.memory[slot], 1 / frames))
                slot += self.causal
            yield parts

    def values(self, part: Part) -> Tensor:
        """z of a part in the dtype of products: those of 16-bit operands are slow on CPUs."""
        z = self.z[part.rows]
        return z if self.wide is None else shaped(self.wide, *z.shape).copy_(z)

    def head(self, part: Part, which: int) -> Tensor:
        """A head of a part [n,S]; lin_q times the factor of the memory."""
        qk = self.qk[part.rows]
        head = shaped(self.heads[which], *qk.shape)
        gain, offset = self.gamma[which], self.beta[which]
        cpu_rows.make_head(head.numpy(), array(qk), gain, offset, *self.rotation(part, which))
        return head

    def rotation(self, part: Part, which: int) -> tuple[np.ndarray, np.ndarray, Any]:
        """cos and sin of the angles of a part, and the factor of a head."""
        factor = self.number(part.factor if which == LIN_Q else 1)
        return self.cos[part.frames], self.sin[part.frames], factor

    def kept(self, part: Part) -> tuple[np.ndarray, float]:
        return _ALL if self.keep is None else self.keep[part.rows].numpy(), self.keep_scale

    def attended(self, part: Part) -> Tensor:
        """A of a part; P and its root, and all heads but lin_k, stay in the work arrays."""
        quad_q, lin_q, quad_k = (self.head(part, i) for i in (QUAD_Q, LIN_Q, QUAD_K))
        P, root = (shaped(x, part.size, self.width(part)) for x in (self.P, self.root))
        A, z = shaped(self.A, part.size, self.z.shape[1]), self.values(part)
        grouped_A, grouped_P = self.grouped(part, A, P)
        grouped_q, grouped_k, grouped_z = self.grouped(part, quad_q, quad_k, z)
        for rows, seen, _ in self.blocks(part):
            torch.matmul(grouped_q[rows], grouped_k[seen].mT, out=grouped_P[rows, seen])
        cpu_rows.square(P.numpy(), root.numpy(), 1 / self.G, *self.kept(part), self.causal)
        for rows, seen, _ in self.blocks(part):
            torch.matmul(grouped_P[rows, seen], grouped_z[seen], out=grouped_A[rows])
        return A if self.alone(part) else A.addmm_(lin_q, part.M)

    def width(self, part: Part) -> int:
        """Frames of one group."""
        return min(part.size, self.G)

    def grouped(self, part: Part, *arrays: Tensor) -> list[Tensor]:
        """Rows of a part: causal as they are, else by group in a batch."""
        if self.causal:
            return list(arrays)
        return [x.view(-1, self.width(part), x.shape[1]) for x in arrays]

    def blocks(self, part: Part) -> list[tuple[slice, slice, slice]]:
        """Of P as `grouped`: rows, the columns that they see, the rows that see these rows."""
        if not self.causal:
            return [(slice(None), slice(None), slice(None))]
        edges = [*range(0, part.size, _BLOCK), part.size]
        return [(slice(a, b), slice(0, b), slice(a, part.size)) for a, b in pairwise(edges)]

    def alone(self, part: Part) -> bool:
        """Whether there is no memory for a part yet."""
        return self.causal and part.j == 0

    def collect(self, part: Part, target: Tensor, before: Tensor | None) -> None:
        """target = before + Lk' Z"""
        _add_product(target, before, self.head(part, LIN_K).T, self.values(part))

    def spread(self, part: Part, dA: Tensor, D: Tensor, add: bool) -> None:
        """D, the gradient of memory, gains that of what `part` read."""
        if self.alone(part):
            return
        lin_q = shaped(self.heads[LIN_Q], part.size, self.qk.shape[1])
        _add_product(D, D if add else None, lin_q.T, dA)

    def rows(self, kernel: Any, *arguments: np.ndarray) -> None:
        """Run `kernel` on all rows of a part."""
        size = arguments[0].shape[0]

        def work(first: int, last: int) -> None:
            kernel(*arguments, first, last)

        threads.split(work, size, threads.count(arguments[0].size))


def shaped(work: Tensor, rows: int, columns: int) -> Tensor:
    """The beginning of a work array as a contiguous matrix."""
    return work[: rows * columns].view(rows, columns)


def _add_product(target: Tensor, before: Tensor | None, left: Tensor, right: Tensor) -> None:
    """target = before + left @ right"""
    if before is None:
        torch.mm(left, right, out=target)
    else:
        torch.addmm(before, left, right, out=target)
