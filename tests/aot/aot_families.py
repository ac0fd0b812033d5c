# SPDX-License-Identifier: Apache-2.0
"""How each family's launchers are called for compilation. A new family adds one entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from seqlib_kernels._core.dtypes import state_dtype
from seqlib_kernels._core.launch import Launch, LaunchTable
from seqlib_kernels.delta_rule import kernels as delta_rule
from seqlib_kernels.delta_rule import launch as delta_rule_launch
from seqlib_kernels.delta_rule.launch import LAUNCH as DELTA_RULE
from seqlib_kernels.linear_scan import kernels as linear_scan
from seqlib_kernels.linear_scan.launch import LAUNCH as LINEAR_SCAN
from torch import Tensor

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def _meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _boundaries(packed: bool) -> Tensor | None:
    return _meta(4, dtype=torch.int64) if packed else None


def _delta_rule(
    dtype: torch.dtype, width: int, *, full: bool, householder: int = 1, group: int = 1
) -> None:
    """Both passes with every option, short and so long that sequences are split, or with none."""
    with mock.patch.object(delta_rule_launch, "multiprocessors", return_value=1 << 20):
        for T in (256, 8192) if full else (256,):
            _delta_rule_of(T, dtype, width, full, householder, group)


def _delta_rule_of(T: int, dtype: torch.dtype, width: int, full: bool, n: int, group: int) -> None:
    B, H = 1 if full else 2, 2
    HV, K, V, wide = group * H, width, width, state_dtype(dtype)
    q = _meta(B, T, H, K, dtype=dtype)
    k, v = _meta(B, n * T, H, K, dtype=dtype), _meta(B, n * T, HV, V, dtype=dtype)
    beta = _meta(B, n * T, HV, dtype=wide)
    decay = _meta(B, T, HV, dtype=wide) if full else None
    h0 = _meta(3, HV, K, V, dtype=wide) if full else None
    packed = _boundaries(full)
    options = (packed, 0.1, full, n)
    o, hT, saved = delta_rule.delta_rule_fwd(q, k, v, beta, decay, h0, *options, True)
    delta_rule.delta_rule_bwd(o, hT, q, k, v, beta, decay, h0, saved, *options)


def _linear_scan(dtype: torch.dtype, width: int, *, full: bool) -> None:
    B, T, D, wide = 1 if full else 2, 256, min(width, 1024), state_dtype(dtype)
    x, packed = _meta(B, T, D, dtype=dtype), _boundaries(full)
    state = _meta(3 if full else B, D, dtype=wide)
    h0 = state if full else None
    linear_scan.forward(x, x, h0, packed, x, state, full)
    linear_scan.backward(x, x, h0, x, state, packed, x, x, state, full)


@dataclass(frozen=True)
class Family:
    """A family's table, and what to compile for a row.

    Attributes:
        run: `run(dtype, width, **options)` calls the launchers of both passes on meta tensors.
        dtypes: the input dtypes that rows of one itemsize serve, the commonest first.
        variants: the options that between them reach all code of the kernels, by name.
    """

    table: LaunchTable
    run: Callable[..., None]
    dtypes: Mapping[int, tuple[torch.dtype, ...]]
    variants: Mapping[str, Mapping[str, Any]]

    def rows(self, arch: str) -> tuple[Launch, ...]:
        return self.table.rows_of(arch)


FAMILIES = {
    "linear_scan": Family(
        LINEAR_SCAN,
        _linear_scan,
        {2: (BF16, F16), 4: (F32,), 8: (torch.complex64, F64), 16: (torch.complex128,)},
        {"plain": {"full": False}, "full": {"full": True}},
    ),
    "delta_rule": Family(
        DELTA_RULE,
        _delta_rule,
        {2: (BF16,), 4: (F32, F16)},
        {
            "plain": {"full": False},
            "full": {"full": True},
            "products": {"full": True, "householder": 2, "group": 2},
        },
    ),
}
