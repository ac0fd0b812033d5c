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
from seqlib_kernels.fsmn.attention import kernels as joint_attention
from seqlib_kernels.fsmn.attention.launch import LAUNCH as JOINT_ATTENTION
from seqlib_kernels.fsmn.dense import kernels as dense_fsmn_memory
from seqlib_kernels.fsmn.dense.launch import LAUNCH as DENSE_FSMN_MEMORY
from seqlib_kernels.fsmn.memory import kernels as fsmn_memory
from seqlib_kernels.fsmn.memory.arguments import Options as MemoryOptions
from seqlib_kernels.fsmn.memory.arguments import Tensors as MemoryTensors
from seqlib_kernels.fsmn.memory.launch import LAUNCH as FSMN_MEMORY
from seqlib_kernels.fsmn.norm import kernels as sequence_norm
from seqlib_kernels.fsmn.norm.launch import LAUNCH as SEQUENCE_NORM
from seqlib_kernels.linear_scan import kernels as linear_scan
from seqlib_kernels.linear_scan.launch import LAUNCH as LINEAR_SCAN
from seqlib_kernels.selective_scan import kernels as selective_scan
from seqlib_kernels.selective_scan.arguments import Tensors as SelectiveScanTensors
from seqlib_kernels.selective_scan.launch import LAUNCH as SELECTIVE_SCAN
from seqlib_kernels.ssd import kernels as ssd
from seqlib_kernels.ssd.arguments import Tensors as SSDTensors
from seqlib_kernels.ssd.launch import LAUNCH as SSD
from seqlib_kernels.ssm.diagonal import kernels as diagonal_ssm
from seqlib_kernels.ssm.diagonal import launch as diagonal_launch
from seqlib_kernels.ssm.diagonal.arguments import Tensors as DiagonalTensors
from seqlib_kernels.ssm.diagonal.launch import LAUNCH as DIAGONAL_SSM
from seqlib_kernels.ssm.mimo import kernels as mimo_ssm
from seqlib_kernels.ssm.mimo.arguments import Tensors as MimoTensors
from seqlib_kernels.ssm.mimo.launch import LAUNCH as MIMO_SSM
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


def _selective_scan(dtype: torch.dtype, width: int, *, full: bool) -> None:
    """Both passes with every option, or with none."""
    B, T, D, N, wide = 1 if full else 2, 256, min(width, 1024), 16, state_dtype(dtype)
    x, shared = _meta(B, T, D, dtype=dtype), _meta(B, T, 2, N, dtype=dtype)
    A, channel = _meta(D, N, dtype=wide), _meta(D, dtype=wide) if full else None
    h0 = _meta(3, D, N, dtype=wide) if full else None
    z, packed = x if full else None, _boundaries(full)
    given = SelectiveScanTensors(x, x, A, shared, shared, channel, z, channel, h0, packed)
    y, hT, states = selective_scan.forward(given, full, full, True)
    selective_scan.backward(y, hT, given, states, full, full)
    if not full:  # without states for a backward pass
        selective_scan.forward(given, full, full, False)


def _ssd(dtype: torch.dtype, width: int, *, full: bool) -> None:
    """With shared groups, step sizes, skip and packed sequences, or without any."""
    H, P, N, wide = 4, 64, width, state_dtype(dtype)
    batch, T, G = (1, 256, 2) if full else (2, 256, 4)
    x, a = _meta(batch, T, H, P, dtype=dtype), _meta(batch, T, H, dtype=wide)
    B = _meta(batch, T, G, N, dtype=dtype)
    h0 = _meta(3, H, P, N, dtype=wide) if full else None
    delta, skip = (a, a[0, 0]) if full else (None, None)
    given = SSDTensors(x, B, B, a, delta, skip, h0, _boundaries(full))
    y, hT, saved = ssd.forward(given, True)
    ssd.backward(y, hT, given, saved)


def _diagonal_ssm(dtype: torch.dtype, width: int, *, full: bool, modes: int = 32) -> None:
    """Both passes with every option, to the left and in segments, or with none."""
    H, T, wide = 256, 8192 if full else 256, state_dtype(dtype)
    u = _meta(1 if full else 2, T, H, dtype=dtype)
    a, h0 = _meta(H, modes, 2, dtype=F64), _meta(3, H, modes, 2, dtype=wide) if full else None
    D = _meta(H, dtype=wide) if full else None
    given = DiagonalTensors(u, a, a, a, D, h0, _boundaries(full))
    with mock.patch.object(diagonal_launch, "multiprocessors", return_value=1 << 20):
        y, hT, states = diagonal_ssm.forward(given, full, True)
        diagonal_ssm.backward(y, hT, given, states, full)
        if not full:  # without states for a backward pass
            diagonal_ssm.forward(given, full, False)


def _mimo_ssm(dtype: torch.dtype, width: int, *, full: bool, states: int = 128) -> None:
    """Both passes with every option, or with none."""
    B, N, P, wide = 1 if full else 2, 3 if full else 2, states, state_dtype(dtype)
    u = _meta(B, 256, width, dtype=dtype)
    a, into, out_of = (_meta(*shape, 2, dtype=F64) for shape in ((P,), (P, width), (width, P)))
    skip = _meta(width, dtype=F64) if full else None
    h0 = _meta(N, P, 2, dtype=wide) if full else None
    given = MimoTensors(u, a, into, out_of, skip, h0, _boundaries(full))
    y, hT, saved = mimo_ssm.forward(given, full, True)
    mimo_ssm.backward(y, hT, given, saved, full)


def _fsmn_memory(dtype: torch.dtype, width: int, *, full: bool, J: int = 1) -> None:
    """Causal with every option, or both sides with none."""
    B, T, C, W, wide = 1 if full else 2, 256, min(width, 1024), 17, state_dtype(dtype)
    x, weight = _meta(B, T, J * C, dtype=dtype), _meta(C, J, W, dtype=wide)
    bias, scale = (_meta(J * C, dtype=wide), _meta(B, T, dtype=wide)) if full else (None, None)
    h0 = _meta(3, 2 * (W - 1), J * C, dtype=wide) if full else None
    given = MemoryTensors(x, weight, bias, scale, h0, _boundaries(full))
    options = MemoryOptions(full, 2, full, J == 1)
    y, hT = fsmn_memory.forward(given, options)
    fsmn_memory.backward(y, hT, given, options)


def _sequence_norm(dtype: torch.dtype, width: int, *, full: bool) -> None:
    """Packed sequences with statistics of every channel, or a batch without."""
    B, T, C, wide = 1 if full else 2, 600, min(width, 1024), state_dtype(dtype)
    x, channel, packed = _meta(B, T, C, dtype=dtype), _meta(C, dtype=wide), _boundaries(full)
    statistics = _meta(3 if full else B, C, dtype=wide)
    kept = (statistics, statistics)
    sequence_norm.forward(x, channel, channel, packed, x, *kept, full, 1e-8)
    sequence_norm.backward(x, x, channel, *kept, packed, x, full)


def _dense_fsmn_memory(dtype: torch.dtype, width: int, *, full: bool) -> None:
    """Packed sequences, or a batch."""
    B, T, C, W, wide = 1 if full else 2, 600, min(width, 1024), 39, state_dtype(dtype)
    x, weight = _meta(B, T, C, dtype=dtype), _meta(C, 3, W, dtype=wide)
    layer, statistics = _meta(2, C, dtype=wide), _meta(2, 3 if full else B, C, dtype=wide)
    convs = _meta(2, B, T, C, dtype=wide)
    given = (x, weight, layer, layer, layer, _boundaries(full))
    dense_fsmn_memory.forward(*given, x, convs, statistics, statistics, 1e-5)
    dense_fsmn_memory.backward(x, *given, convs, statistics, statistics, x)


def _joint_attention(
    dtype: torch.dtype, width: int, *, full: bool, causal: bool = False, group: int = 256
) -> None:
    """Both passes with dropout and packed sequences, or without."""
    B, T, S, wide = 1 if full else 2, 4000, 128, state_dtype(dtype)
    z, qk = _meta(B, T, 2 * width, dtype=dtype), _meta(B, T, S, dtype=dtype)
    o, gain, freqs = z[..., :width], _meta(4, S, dtype=wide), _meta(16, dtype=F32)
    keep = _meta(B, T, group, dtype=torch.bool) if full else None
    memory = _meta(32, S, 2 * width, dtype=wide)
    given = (z, qk, gain, gain, freqs, keep, _boundaries(full))
    options = (group, causal, False, 1.1 if full else 1.0)
    joint_attention.forward(*given, o, memory, *options)
    joint_attention.backward(*given, memory, o, z, qk, gain, gain, *options)


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
    "selective_scan": Family(
        SELECTIVE_SCAN,
        _selective_scan,
        {2: (BF16, F16), 4: (F32,), 8: (F64,)},
        {"plain": {"full": False}, "full": {"full": True}},
    ),
    "ssd": Family(
        SSD,
        _ssd,
        {2: (BF16,), 4: (F32, F16)},
        {"plain": {"full": False}, "full": {"full": True}},
    ),
    "diagonal_ssm": Family(
        DIAGONAL_SSM,
        _diagonal_ssm,
        {2: (BF16, F16), 4: (F32,)},
        {
            "plain": {"full": False},
            "full": {"full": True},
            "modes": {"full": True, "modes": 100},
        },
    ),
    "mimo_ssm": Family(
        MIMO_SSM,
        _mimo_ssm,
        {2: (BF16, F16), 4: (F32,)},
        {"plain": {"full": False}, "full": {"full": True}, "few": {"full": True, "states": 8}},
    ),
    "sequence_norm": Family(
        SEQUENCE_NORM,
        _sequence_norm,
        {2: (BF16, F16), 4: (F32,), 8: (F64,)},
        {"plain": {"full": False}, "full": {"full": True}},
    ),
    "dense_fsmn_memory": Family(
        DENSE_FSMN_MEMORY,
        _dense_fsmn_memory,
        {2: (BF16, F16), 4: (F32,), 8: (F64,)},
        {"plain": {"full": False}, "full": {"full": True}},
    ),
    "fsmn_memory": Family(
        FSMN_MEMORY,
        _fsmn_memory,
        {2: (BF16, F16), 4: (F32,), 8: (F64,)},
        {
            "plain": {"full": False},
            "full": {"full": True},
            "grouped": {"full": False, "J": 2},
        },
    ),
    "joint_attention": Family(
        JOINT_ATTENTION,
        _joint_attention,
        {2: (BF16,), 4: (F32, F16)},
        {
            "plain": {"full": False},
            "full": {"full": True},
            "causal": {"full": True, "causal": True},
            "blocks": {"full": True, "causal": True, "group": 1024},
        },
    ),
}
