# SPDX-License-Identifier: Apache-2.0
"""The delta rule by flash-linear-attention, on GPUs."""

import importlib

from torch import Tensor

from ..contender import Call, Contender, TorchCall
from ..workloads import Problem

_KERNELS = {
    "plain": ("fla.ops.delta_rule", "chunk_delta_rule"),
    "gated": ("fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
    "product": ("fla.ops.gated_delta_product", "chunk_gated_delta_product"),
}


def _prepare(problem: Problem) -> Call:
    n = problem.case.options.get("num_householder", 1)
    gated = "g" in problem.inputs
    module, name = _KERNELS["product" if n > 1 else "gated" if gated else "plain"]
    kernel = getattr(importlib.import_module(module), name)
    more = {"num_householder": n} if n > 1 else {}

    def function(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        g: Tensor | None = None,
        *,
        scale: float | None = None,
        normalize_qk: bool = False,
        num_householder: int = 1,
    ) -> Tensor:
        if g is None and num_householder > 1:  # its product has no form without a gate
            g = beta.new_zeros(v.shape[0], q.shape[1], v.shape[2])
        gate = {} if g is None else {"g": g}
        return kernel(
            q=q,
            k=k,
            v=v,
            beta=beta.to(q.dtype),
            scale=scale,
            use_qk_l2norm_in_kernel=normalize_qk,
            **gate,
            **more,
        )[0]

    return TorchCall(function, problem)


def _refuses(problem: Problem) -> str | None:
    q, v = problem.inputs["q"], problem.inputs["v"]
    if "alpha" in problem.inputs:
        return "no signed decay"
    if q.dtype.itemsize != 2:
        return "16-bit inputs only"
    if q.shape[2] != v.shape[2] and "g" not in problem.inputs:
        return "as many heads of q as of v only, without a gate"
    return None


CONTENDERS = (
    Contender(
        name="flash-linear-attention",
        prepare=_prepare,
        distribution="flash-linear-attention",
        module="fla",
        device="cuda",
        refuses=_refuses,
    ),
)
