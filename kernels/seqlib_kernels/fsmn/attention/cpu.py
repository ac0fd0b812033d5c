# SPDX-License-Identifier: Apache-2.0
"""Joint attention on CPUs: torch's matrix products part by part, loops of cpu_rows.py between.

No array is as long as the call, but inputs and outputs and, for 16-bit inputs, float32 gradients.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._core.lowp import array
from . import cpu_rows
from .cpu_groups import LIN_K, LIN_Q, QUAD_K, QUAD_Q, Call, Part, shaped


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
    for parts in call.sequences():
        unread -= {part.slot for part in parts if not call.alone(part)}
        if not call.causal:
            for part in parts:
                call.collect(part, part.M, part.M if part.j else None)
        for part in parts:
            A = call.attended(part)
            call.rows(cpu_rows.gate, array(o[part.rows]), A.numpy(), array(call.z[part.rows]))
            if call.causal and part is not parts[-1]:
                call.collect(part, parts[part.j + 1].M, part.M if part.j else None)
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
    for parts in call.sequences():
        if call.causal:
            for part in reversed(parts):
                dA = grads.within(part)
                if part is not parts[-1]:
                    grads.beyond(part, D)
                call.spread(part, dA, D, add=part is not parts[-1])
        else:
            for part in parts:
                call.spread(part, grads.within(part), D, add=part.j > 0)
            for part in parts:
                grads.beyond(part, D)
    grads.store(dz, dqk, dgamma, dbeta)


class _Gradients:
    """Gradients in the dtype of sums, part by part."""

    def __init__(self, call: Call, do: Tensor, dz: Tensor, dqk: Tensor) -> None:
        self.call, self.do = call, do
        self.dz, self.dqk = (
            (x if x.dtype == call.dtype else x.new_empty(x.shape, dtype=call.dtype)).flatten(0, 1)
            for x in (dz, dqk)
        )
        # float64: these are sums over all rows
        self.dgamma, self.dbeta = (np.zeros(call.gamma.shape, np.float64) for _ in range(2))
        self.dP, self.dhead = torch.empty_like(call.P), call.work(dqk.shape[2])

    def within(self, part: Part) -> Tensor:
        """All but what goes through lin_k and the memory; returns dA."""
        call = self.call
        A, z, dz = call.attended(part), call.values(part), self.dz[part.rows]
        given = (array(x[part.rows]) for x in (self.do, call.z))
        call.rows(cpu_rows.gate_gradients, A.numpy(), dz.numpy(), *given)
        dP, P, root = (shaped(x, part.size, call.width(part)) for x in (self.dP, call.P, call.root))
        grouped_dP, grouped_P = call.grouped(part, dP, P)
        grouped_A, grouped_z, grouped_dz = call.grouped(part, A, z, dz)
        add_product = Tensor.addmm_ if call.causal else Tensor.baddbmm_
        for rows, seen, seeing in call.blocks(part):
            torch.matmul(grouped_A[rows], grouped_z[seen].mT, out=grouped_dP[rows, seen])
            add_product(grouped_dz[rows], grouped_P[seeing, rows].mT, grouped_A[seeing])
        cpu_rows.square_gradients(
            dP.numpy(), root.numpy(), 1 / call.G, *call.kept(part), call.causal
        )
        heads = (shaped(call.heads[i], part.size, self.dqk.shape[1]) for i in (QUAD_Q, QUAD_K))
        quad_q, quad_k = call.grouped(part, *heads)
        self._head(part, QUAD_Q, grouped_dP, quad_k)
        self._head(part, QUAD_K, grouped_dP.mT, quad_q)
        if not call.alone(part):
            self._head(part, LIN_Q, A, part.M.T)
        return A

    def beyond(self, part: Part, D: Tensor) -> None:
        """What goes through lin_k: D is the gradient of the memory that `part` was added to."""
        self.dz[part.rows].addmm_(self.call.head(part, LIN_K), D)
        self._head(part, LIN_K, self.call.values(part), D.T)

    def _head(self, part: Part, which: int, left: Tensor, right: Tensor) -> None:
        """The gradient of a head is left @ right; on to qk, its gain and its offset."""
        call, dqk = self.call, self.dqk[part.rows]
        dhead = shaped(self.dhead, *dqk.shape)
        torch.matmul(left, right, out=dhead.view(*left.shape[:-1], -1))
        cpu_rows.head_gradients(
            dqk.numpy(), self.dgamma[which], self.dbeta[which], dhead.numpy(),
            array(call.qk[part.rows]), call.gamma[which], *call.rotation(part, which),
            which != QUAD_Q,
        )  # fmt: skip

    def store(self, dz: Tensor, dqk: Tensor, dgamma: Tensor, dbeta: Tensor) -> None:
        for target, x in ((dz, self.dz), (dqk, self.dqk)):
            if target.dtype != x.dtype:
                target.copy_(x.view(target.shape))
        for target, x in ((dgamma, self.dgamma), (dbeta, self.dbeta)):
            target.copy_(torch.from_numpy(x))
