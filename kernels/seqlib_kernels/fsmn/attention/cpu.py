# SPDX-License-Identifier: Apache-2.0
"""Joint attention on CPUs: torch's matrix products group by group, loops of cpu_rows.py between.

No array is as long as the call, but inputs and outputs and, for 16-bit inputs, float32 gradients.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._core.lowp import array
from . import cpu_rows
from .cpu_groups import LIN_K, LIN_Q, QUAD_K, QUAD_Q, Call, Group, shaped


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
    call = Call(z, qk, gamma, beta, freqs, keep, cu_seqlens, memory, *options)
    o, unread = o.flatten(0, 1), set(range(len(memory)))
    for groups in call.sequences():
        unread -= {group.slot for group in groups if not call.alone(group)}
        if not call.causal:
            for group in groups:
                call.collect(group, group.M, group.M if group.j else None)
        for group in groups:
            A = call.attended(group)
            call.rows(cpu_rows.gate, array(o[group.rows]), A.numpy(), array(call.z[group.rows]))
            if call.causal and group is not groups[-1]:
                call.collect(group, groups[group.j + 1].M, group.M if group.j else None)
    for slot in unread:
        memory[slot].zero_()


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
    call = Call(z, qk, gamma, beta, freqs, keep, cu_seqlens, memory, *options)
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


class _Gradients:
    """Gradients in the dtype of sums, group by group."""

    def __init__(self, call: Call, do: Tensor, dz: Tensor, dqk: Tensor) -> None:
        self.call, self.do = call, do
        self.dz, self.dqk = (
            (x if x.dtype == call.dtype else x.new_empty(x.shape, dtype=call.dtype)).flatten(0, 1)
            for x in (dz, dqk)
        )
        # float64: these are sums over all rows
        self.dgamma, self.dbeta = (np.zeros(call.gamma.shape, np.float64) for _ in range(2))
        self.dP, self.dhead = call.work(call.most), call.work(dqk.shape[2])

    def within(self, group: Group) -> Tensor:
        """All but what goes through lin_k and the memory; returns dA."""
        call, n = self.call, group.size
        A, z, dz = call.attended(group), call.values(group), self.dz[group.rows]
        given = (array(x[group.rows]) for x in (self.do, call.z))
        call.rows(cpu_rows.gate_gradients, A.numpy(), dz.numpy(), *given)
        dP, P, root = (shaped(x, n, n) for x in (self.dP, call.P, call.root))
        for at, seen, seeing in call.blocks(group):
            torch.mm(A[at], z[seen].T, out=dP[at, seen])
            dz[at].addmm_(P[seeing, at].T, A[seeing])
        cpu_rows.square_gradients(
            dP.numpy(), root.numpy(), 1 / call.G, *call.kept(group), call.causal
        )
        quad_q, quad_k = (shaped(call.heads[i], n, self.dqk.shape[1]) for i in (QUAD_Q, QUAD_K))
        self._head(group, QUAD_Q, dP, quad_k)
        self._head(group, QUAD_K, dP.T, quad_q)
        if not call.alone(group):
            self._head(group, LIN_Q, A, group.M.T)
        return A

    def beyond(self, group: Group, D: Tensor) -> None:
        """What goes through lin_k: D is the gradient of the memory that `group` was added to."""
        self.dz[group.rows].addmm_(self.call.head(group, LIN_K), D)
        self._head(group, LIN_K, self.call.values(group), D.T)

    def _head(self, group: Group, which: int, left: Tensor, right: Tensor) -> None:
        """The gradient of a head is left @ right; on to qk, its gain and its offset."""
        call, dqk = self.call, self.dqk[group.rows]
        dhead = torch.mm(left, right, out=shaped(self.dhead, *dqk.shape))
        cpu_rows.head_gradients(
            dqk.numpy(), self.dgamma[which], self.dbeta[which], dhead.numpy(),
            array(call.qk[group.rows]), call.gamma[which], *call.rotation(group, which),
            which != QUAD_Q,
        )  # fmt: skip

    def store(self, dz: Tensor, dqk: Tensor, dgamma: Tensor, dbeta: Tensor) -> None:
        for target, x in ((dz, self.dz), (dqk, self.dqk)):
            if target.dtype != x.dtype:
                target.copy_(x.view(target.shape))
        for target, x in ((dgamma, self.dgamma), (dbeta, self.dbeta)):
            target.copy_(torch.from_numpy(x))
