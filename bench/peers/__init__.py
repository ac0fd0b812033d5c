# SPDX-License-Identifier: Apache-2.0
"""The contenders of each op: our backends first, then the peers that are known."""

from collections.abc import Mapping

from ..contender import Contender, ours
from . import (
    delta_chunkwise,
    delta_loop,
    diagonal_jax,
    diagonal_torch,
    fla,
    fsmn_attention,
    fsmn_dense,
    fsmn_memory,
    fsmn_norm,
    jax_scan,
    mambapy_scan,
    mimo_jax,
    mimo_unfused,
    scan_associative,
    scan_loops,
    selective_loop,
    selective_mamba_ssm,
    selective_mambapy,
    selective_transformers,
    ssd_chunked,
    ssd_loop,
    ssd_mamba_ssm,
    ssd_transformers,
)

_OURS = (ours("cpu", "cpu"), ours("triton", "cuda"))

CONTENDERS: Mapping[str, tuple[Contender, ...]] = {
    "linear_scan": (
        *_OURS,
        *scan_loops.CONTENDERS,
        *scan_associative.CONTENDERS,
        *mambapy_scan.CONTENDERS,
        *jax_scan.CONTENDERS,
    ),
    "delta_rule": (
        *_OURS,
        *delta_loop.CONTENDERS,
        *delta_chunkwise.CONTENDERS,
        *fla.CONTENDERS,
    ),
    "selective_scan": (
        *_OURS,
        *selective_loop.CONTENDERS,
        *selective_mambapy.CONTENDERS,
        *selective_transformers.CONTENDERS,
        *selective_mamba_ssm.CONTENDERS,
    ),
    "ssd": (
        *_OURS,
        *ssd_loop.CONTENDERS,
        *ssd_chunked.CONTENDERS,
        *ssd_transformers.CONTENDERS,
        *ssd_mamba_ssm.CONTENDERS,
    ),
    "diagonal_ssm": (
        *_OURS,
        *diagonal_torch.CONTENDERS,
        *diagonal_jax.CONTENDERS,
    ),
    "mimo_ssm": (
        *_OURS,
        *mimo_unfused.CONTENDERS,
        *mimo_jax.CONTENDERS,
    ),
    "fsmn_memory": (*_OURS, *fsmn_memory.CONTENDERS),
    "dense_fsmn_memory": (*_OURS, *fsmn_dense.CONTENDERS),
    "sequence_norm": (*_OURS, *fsmn_norm.CONTENDERS),
    "joint_attention": (*_OURS, *fsmn_attention.CONTENDERS),
}
