# SPDX-License-Identifier: Apache-2.0
"""Joint attention on CPUs: torch's matrix products group by group, loops of cpu_rows.py between.

No array is as long as the call, but inputs and outputs and, for 16-bit inputs, float32 gradients.
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
_ALL = np.empty((0, 0), np.bool_)  # the place of `keep` where everything is kept


def forward(
    z: Tensor,
    qk: Tensor,
    gamma: Tensor,
    beta: Tensor,
    freqs: Tensor,
    keep: Tensor | None,
    cu_seqlens: Tensor | None,
    o: Tensor,
    memory: Tensor,
    *options: Any,
) -> None:
    """Fill o and memory, the sums of Lk' Z; see op.py."""
    call = _Call(z, qk, gamma, beta, freqs, keep, cu_seqlens, memory, *options)
    o = o.flatten(0, 1)
    for groups in call.sequences():
        if not call.causal:
            for group in groups:
                call.collect(group, group.M, group.M if group.j else None)
        for group, later in pairwise([*groups, None]):
            A = call.attended(group)
            call.rows(cpu_rows.gate, array(o[group.rows]), A.numpy(), array(call.z[group.rows]))
            if call.causal and later is not None:
                call.collect(group, later.M, group.M if group.j else None)


def backward(
    z: Tensor,
    qk: Tensor,
    gamma: Tensor,
    beta: Tensor,
    freqs: Tensor,
    keep: Tensor | None,
    cu_seqlens: Tensor | None,
    memory: Tensor,
    do: Tensor,
    dz: Tensor,
    dqk: Tensor,
    dgamma: Tensor,
    dbeta: Tensor,
    *options: Any,
) -> None:
    """Fill dz, dqk, dgamma and dbeta; P and A are made anew."""
    call = _Call(z, qk, gamma, beta, freqs, keep, cu_seqlens, memory, *options)
    grads = _Gradients(call, do.flatten(0, 1), dz, dqk)
    D = torch.empty_like(memory[0]) if len(memory) else memory
    for groups in call.sequences():
        if call.causal:
            for group in reversed(groups):
                dA = grads.within(group)
                if group is not groups[-1]:
                    grads.beyond(group, D)
                call.spread(group, dA, D, add=group is not groups[-1])
        else:
            for group in groups:
                call.spread(group, grads.within(group), D, add=group.j > 0)
            for group in groups:
                grads.beyond(group, D)
    grads.store(dz, dqk, dgamma, dbeta)


class _Group(NamedTuple):
    """Rows of one group, number j of its sequence, at frames `frames` of it.

    M [S,2E] is the memory that it reads, times `factor`.
    """

    j: int
    rows: slice
    frames: slice
    M: Tensor
    factor: float

    @property
    def size(self) -> int:
        return self.rows.stop - self.rows.start


class _Call:
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

    def sequences(self) -> Iterator[list[_Group]]:
        """The groups of every sequence."""
        G, slot = self.G, 0
        for n, (start, stop) in enumerate(pairwise(self.bounds.tolist())):
            slot = start // G + n if self.packed else slot
            groups, length = [], stop - start
            for j, first in enumerate(range(0, length, G)):
                last = min(first + G, length)
                if self.causal:
                    M, frames = self.memory[slot + j], G if self.per_group else max(1, first)
                else:
                    M, frames = self.memory[n], length
                at = slice(first, last), slice(start + first, start + last)
                groups.append(_Group(j, at[1], at[0], M, 1 / frames))
            slot += len(groups)
            yield groups

    def values(self, group: _Group) -> Tensor:
        """z of a group in the dtype of products: those of 16-bit operands are slow on CPUs."""
        z = self.z[group.rows]
        return z if self.wide is None else _shaped(self.wide, *z.shape).copy_(z)

    def head(self, group: _Group, which: int) -> Tensor:
        """A head of a group [n,S]; lin_q times the factor of the memory."""
        qk = self.qk[group.rows]
        head = _shaped(self.heads[which], *qk.shape)
        cpu_rows.make_head(head.numpy(), array(qk), *self._rotation(group, which, self.beta[which]))
        return head

    def _rotation(self, group: _Group, which: int, *offset: np.ndarray) -> tuple[Any, ...]:
        factor = self.number(group.factor if which == LIN_Q else 1)
        return self.gamma[which], *offset, self.cos[group.frames], self.sin[group.frames], factor

    def kept(self, group: _Group) -> tuple[np.ndarray, float]:
        return _ALL if self.keep is None else self.keep[group.rows].numpy(), self.keep_scale

    def attended(self, group: _Group) -> Tensor:
        """A of a group; P and its root, and all heads but lin_k, stay in the work arrays."""
        quad_q, lin_q, quad_k = (self.head(group, i) for i in (QUAD_Q, LIN_Q, QUAD_K))
        P, root = (_shaped(x, group.size, group.size) for x in (self.P, self.root))
        torch.mm(quad_q, quad_k.T, out=P)
        cpu_rows.square(P.numpy(), root.numpy(), 1 / self.G, *self.kept(group), self.causal)
        A = _shaped(self.A, group.size, self.z.shape[1])
        torch.mm(P, self.values(group), out=A)
        return A if self._alone(group) else A.addmm_(lin_q, group.M)

    def _alone(self, group: _Group) -> bool:
        """Whether there is no memory for a group yet."""
        return self.causal and group.j == 0

    def collect(self, group: _Group, target: Tensor, before: Tensor | None) -> None:
        """target = before + Lk' Z"""
        _add_product(target, before, self.head(group, LIN_K).T, self.values(group))

    def spread(self, group: _Group, dA: Tensor, D: Tensor, add: bool) -> None:
        """D, the gradient of memory, gains that of what `group` read."""
        if self._alone(group):
            return
        lin_q = _shaped(self.heads[LIN_Q], group.size, self.qk.shape[1])
        _add_product(D, D if add else None, lin_q.T, dA)

    def rows(self, kernel: Any, *arguments: np.ndarray) -> None:
        """Run `kernel` on all rows of a group."""
        size = arguments[0].shape[0]

        def work(first: int, last: int) -> None:
            kernel(*arguments, first, last)

        threads.split(work, size, threads.count(arguments[0].size))


class _Gradients:
    """Gradients in the dtype of sums, group by group."""

    def __init__(self, call: _Call, do: Tensor, dz: Tensor, dqk: Tensor) -> None:
        self.call, self.do = call, do
        self.dz, self.dqk = (
            (x if x.dtype == call.dtype else x.new_empty(x.shape, dtype=call.dtype)).flatten(0, 1)
            for x in (dz, dqk)
        )
        # float64: these are sums over all rows
        self.dgamma, self.dbeta = (np.zeros(call.gamma.shape, np.float64) for _ in range(2))
        self.dP, self.dhead = call.work(call.most), call.work(dqk.shape[2])

    def within(self, group: _Group) -> Tensor:
        """All but what goes through lin_k and the memory; returns dA."""
        call, n = self.call, group.size
        A, z, dz = call.attended(group), call.values(group), self.dz[group.rows]
        given = (array(x[group.rows]) for x in (self.do, call.z))
        call.rows(cpu_rows.gate_gradients, A.numpy(), dz.numpy(), *given)
        dP, P, root = (_shaped(x, n, n) for x in (self.dP, call.P, call.root))
        torch.mm(A, z.T, out=dP)
        dz.addmm_(P.T, A)
        cpu_rows.square_gradients(dP.numpy(), root.numpy(), 1 / call.G, *call.kept(group))
        quad_q, quad_k = (_shaped(call.heads[i], n, self.dqk.shape[1]) for i in (QUAD_Q, QUAD_K))
        self._head(group, QUAD_Q, dP, quad_k)
        self._head(group, QUAD_K, dP.T, quad_q)
        if not call._alone(group):
            self._head(group, LIN_Q, A, group.M.T)
        return A

    def beyond(self, group: _Group, D: Tensor) -> None:
        """What goes through lin_k: D is the gradient of the memory that `group` was added to."""
        self.dz[group.rows].addmm_(self.call.head(group, LIN_K), D)
        self._head(group, LIN_K, self.call.values(group), D.T)

    def _head(self, group: _Group, which: int, left: Tensor, right: Tensor) -> None:
        """The gradient of a head is left @ right; on to qk, its gain and its offset."""
        call, dqk = self.call, self.dqk[group.rows]
        dhead = torch.mm(left, right, out=_shaped(self.dhead, *dqk.shape))
        cpu_rows.head_gradients(
            dqk.numpy(), self.dgamma[which], self.dbeta[which], dhead.numpy(),
            array(call.qk[group.rows]), *call._rotation(group, which), which != QUAD_Q,
        )  # fmt: skip

    def store(self, dz: Tensor, dqk: Tensor, dgamma: Tensor, dbeta: Tensor) -> None:
        for target, x in ((dz, self.dz), (dqk, self.dqk)):
            if target.dtype != x.dtype:
                target.copy_(x.view(target.shape))
        for target, x in ((dgamma, self.dgamma), (dbeta, self.dbeta)):
            target.copy_(torch.from_numpy(x))


def _shaped(work: Tensor, rows: int, columns: int) -> Tensor:
    """The beginning of a work array as a contiguous matrix."""
    return work[: rows * columns].view(rows, columns)


def _add_product(target: Tensor, before: Tensor | None, left: Tensor, right: Tensor) -> None:
    """target = before + left @ right"""
    if before is None:
        torch.mm(left, right, out=target)
    else:
        torch.addmm(before, left, right, out=target)
