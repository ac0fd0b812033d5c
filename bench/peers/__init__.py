# SPDX-License-Identifier: Apache-2.0
"""The contenders of each op: our backends first, then the peers that are known."""

from collections.abc import Mapping

from ..contender import Contender, ours
from . import delta_chunkwise, delta_loop, fla, jax_scan, mambapy_scan, scan_associative, scan_loops

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
}
