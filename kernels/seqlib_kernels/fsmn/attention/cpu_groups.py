# SPDX-License-Identifier: Apache-2.0
"""A call of joint attention on CPUs, cut into groups: heads, P, A and memory of one of them."""

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
_BLOCK = 64  # rows of a causal P, above whose diagonal little is multiplied
_ALL = np.empty((0, 0), np.bool_)  # the place of `keep` where everything is kept


class Group(NamedTuple):
    """Rows of one group, number j of its sequence, at frames `frames` of it.

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
    """The tensors of a call as rows, and work arrays of one group."""

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
        self.most = min(group_size, longest)
        self.heads = [self.work(qk.shape[2]) for _ in range(4)]
        self.P, self.root = self.work(self.most), self.work(self.most)
        self.A = self.work(z.shape[2])
        self.wide = None if z.dtype == self.dtype else self.work(z.shape[2])

    def work(self, columns: int) -> Tensor:
        """A work array for a group."""
        return torch.empty(self.most * columns, dtype=self.dtype)

    def sequences(self) -> Iterator[list[Group]]:
        """The groups of every sequence."""
        G, slot = self.G, 0
        for n, (start, stop) in enumerate(pairwise(self.bounds.tolist())):
            if not self.causal:
                slot = n
            elif self.packed:
                slot = start // G + n
            groups, length = [], stop - start
            for j, first in enumerate(range(0, length, G)):
                last = min(first + G, length)
                at = slice(start + first, start + last), slice(first, last)
                frames = length
                if self.causal:
                    frames = G if self.per_group else max(1, first)
                groups.append(Group(j, *at, slot, self.memory[slot], 1 / frames))
                slot += self.causal
            yield groups

    def values(self, group: Group) -> Tensor:
        """z of a group in the dtype of products: those of 16-bit operands are slow on CPUs."""
        z = self.z[group.rows]
        return z if self.wide is None else shaped(self.wide, *z.shape).copy_(z)

    def head(self, group: Group, which: int) -> Tensor:
        """A head of a group [n,S]; lin_q times the factor of the memory."""
        qk = self.qk[group.rows]
        head = shaped(self.heads[which], *qk.shape)
        gain, offset = self.gamma[which], self.beta[which]
        cpu_rows.make_head(head.numpy(), array(qk), gain, offset, *self.rotation(group, which))
        return head

    def rotation(self, group: Group, which: int) -> tuple[np.ndarray, np.ndarray, Any]:
        """cos and sin of the angles of a group, and the factor of a head."""
        factor = self.number(group.factor if which == LIN_Q else 1)
        return self.cos[group.frames], self.sin[group.frames], factor

    def kept(self, group: Group) -> tuple[np.ndarray, float]:
        return _ALL if self.keep is None else self.keep[group.rows].numpy(), self.keep_scale

    def attended(self, group: Group) -> Tensor:
        """A of a group; P and its root, and all heads but lin_k, stay in the work arrays."""
        quad_q, lin_q, quad_k = (self.head(group, i) for i in (QUAD_Q, LIN_Q, QUAD_K))
        P, root = (shaped(x, group.size, group.size) for x in (self.P, self.root))
        for rows, seen, _ in self.blocks(group):
            torch.mm(quad_q[rows], quad_k[seen].T, out=P[rows, seen])
        cpu_rows.square(P.numpy(), root.numpy(), 1 / self.G, *self.kept(group), self.causal)
        A = shaped(self.A, group.size, self.z.shape[1])
        z = self.values(group)
        for rows, seen, _ in self.blocks(group):
            torch.mm(P[rows, seen], z[seen], out=A[rows])
        return A if self.alone(group) else A.addmm_(lin_q, group.M)

    def blocks(self, group: Group) -> list[tuple[slice, slice, slice]]:
        """Blocks of rows of P, the columns that they see, and the rows that see them as columns."""
        n = group.size
        if not self.causal:
            return [(slice(0, n), slice(0, n), slice(0, n))]
        edges = [*range(0, n, _BLOCK), n]
        return [(slice(a, b), slice(0, b), slice(a, n)) for a, b in pairwise(edges)]

    def alone(self, group: Group) -> bool:
        """Whether there is no memory for a group yet."""
        return self.causal and group.j == 0

    def collect(self, group: Group, target: Tensor, before: Tensor | None) -> None:
        """target = before + Lk' Z"""
        _add_product(target, before, self.head(group, LIN_K).T, self.values(group))

    def spread(self, group: Group, dA: Tensor, D: Tensor, add: bool) -> None:
        """D, the gradient of memory, gains that of what `group` read."""
        if self.alone(group):
            return
        lin_q = shaped(self.heads[LIN_Q], group.size, self.qk.shape[1])
        _add_product(D, D if add else None, lin_q.T, dA)

    def rows(self, kernel: Any, *arguments: np.ndarray) -> None:
        """Run `kernel` on all rows of a group."""
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
