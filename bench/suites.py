# SPDX-License-Identifier: Apache-2.0
"""The suites: which workloads run on which kind of device, and for how long."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .names import check_name
from .workloads import Workload

OPS = (
    "linear_scan",
    "delta_rule",
    "selective_scan",
    "ssd",
    "diagonal_ssm",
    "mimo_ssm",
    "fsmn_memory",
    "dense_fsmn_memory",
    "sequence_norm",
    "joint_attention",
)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Workloads for one kind of device.

    Attributes:
        device: "cpu" or "cuda".
        threads: each workload is timed once with each of these thread counts.
        seconds: time given to each contender in each mode, apart from checks and first calls.
        compiled: whether compiled peers take part, whose first calls take minutes in all.
    """

    device: str
    threads: tuple[int, ...] = (1,)
    seconds: float
    compiled: bool = True
    workloads: tuple[Workload, ...]


def _scan(B: int, T: int, D: int, dtype: str = "float32") -> Workload:
    return Workload(op="linear_scan", case="real", B=B, T=T, dims={"D": D}, dtype=dtype)


def _delta(
    B: int, T: int, H: int, HV: int, K: int, V: int, case: str = "plain", dtype: str = "float32"
) -> Workload:
    dims = {"H": H, "HV": HV, "K": K, "V": V}
    return Workload(op="delta_rule", case=case, B=B, T=T, dims=dims, dtype=dtype)


def _selective(
    B: int, T: int, D: int, N: int = 16, case: str = "plain", dtype: str = "float32"
) -> Workload:
    dims = {"D": D, "N": N}
    return Workload(op="selective_scan", case=case, B=B, T=T, dims=dims, dtype=dtype)


def _ssd(
    B: int, T: int, H: int, N: int = 128, case: str = "positive", dtype: str = "float32"
) -> Workload:
    dims = {"H": H, "G": 1, "P": 64, "N": N}
    return Workload(op="ssd", case=case, B=B, T=T, dims=dims, dtype=dtype)


def _diagonal(B: int, T: int, H: int, dtype: str = "float32") -> Workload:
    dims = {"H": H, "M": 32}
    return Workload(op="diagonal_ssm", case="zoh", B=B, T=T, dims=dims, dtype=dtype)


def _mimo(B: int, T: int, width: int, dtype: str = "float32") -> Workload:
    dims = {"H": width, "P": width}
    return Workload(op="mimo_ssm", case="zoh", B=B, T=T, dims=dims, dtype=dtype)


def _memory(B: int, T: int, C: int, case: str = "projection", dtype: str = "float32") -> Workload:
    dims = {"C": C, "J": 2, "W": 39} if case == "grouped" else {"C": C, "J": 1, "W": 17}
    return Workload(op="fsmn_memory", case=case, B=B, T=T, dims=dims, dtype=dtype)


def _dense(B: int, T: int, C: int, dtype: str = "float32") -> Workload:
    dims = {"C": C, "W": 39, "depth": 2}
    return Workload(op="dense_fsmn_memory", case="released", B=B, T=T, dims=dims, dtype=dtype)


def _norm(B: int, T: int, C: int, case: str = "sequence", dtype: str = "float32") -> Workload:
    return Workload(op="sequence_norm", case=case, B=B, T=T, dims={"C": C}, dtype=dtype)


def _joint(B: int, T: int, E: int = 1024, S: int = 128, dtype: str = "float32") -> Workload:
    dims = {"E": E, "S": S}
    return Workload(op="joint_attention", case="released", B=B, T=T, dims=dims, dtype=dtype)


def _delta_gpu(B: int, T: int, H: int, HV: int, case: str = "gated") -> Workload:
    return _delta(B, T, H, HV, 128, 128, case, "bfloat16")


SUITES = {
    "cpu-quick": Suite(
        device="cpu",
        seconds=0.3,
        workloads=(
            _scan(2, 1024, 256),
            _delta(1, 2048, 4, 4, 64, 64),
            _selective(1, 512, 512),
            _ssd(1, 2048, 8),
            _diagonal(1, 4096, 64),
            _mimo(1, 4096, 64),
            _memory(1, 1000, 2048),
            _dense(1, 1000, 256),
            _norm(1, 1000, 512),
            _joint(1, 1000, 256),
        ),
    ),
    "cpu": Suite(
        device="cpu",
        threads=(1, 2),
        seconds=0.6,
        workloads=(
            _scan(2, 1024, 256),
            _scan(4, 2048, 512),
            _scan(4, 4096, 1024),
            _scan(1, 65536, 256),
            _delta(1, 2048, 4, 4, 64, 64),
            _delta(1, 2048, 4, 4, 32, 32),
            _delta(1, 2048, 4, 4, 128, 128),
            _delta(4, 2048, 4, 4, 64, 64),
            _delta(1, 2048, 4, 4, 64, 64, "gated"),
            _delta(1, 2048, 4, 4, 64, 64, "product"),
            _selective(1, 512, 512),
            _selective(1, 1024, 512),
            _selective(1, 4096, 512),
            _selective(1, 1024, 512, case="mixer"),
            _ssd(1, 2048, 8),
            _ssd(1, 2048, 24),
            _ssd(1, 2048, 8, case="negative"),
            *(_diagonal(1, T, 64) for T in (1024, 4096, 16384, 65536)),
            *(_mimo(1, T, width) for width in (64, 128) for T in (1024, 4096, 16384, 65536)),
            # the layers of a separation network, 4 s at 8 kHz
            _memory(1, 4000, 2048),
            _memory(1, 4000, 256),
            _memory(1, 4000, 256, "grouped"),
            _dense(1, 4000, 256),
            _norm(1, 4000, 512),
            _norm(1, 4000, 256, "per channel"),
            _joint(1, 4000),
            _joint(1, 16000),
        ),
    ),
    "gpu-quick": Suite(
        device="cuda",
        seconds=0.2,
        compiled=False,
        workloads=(
            _scan(4, 4096, 1536, "float32"),
            _scan(4, 4096, 1536, "bfloat16"),
            _delta_gpu(1, 2048, 16, 16),
            _delta_gpu(4, 2048, 32, 32),
            _delta_gpu(4, 2048, 16, 16, "plain"),
            _selective(2, 4096, 4096, dtype="bfloat16"),
            _ssd(2, 4096, 32, dtype="bfloat16"),
            _diagonal(8, 4096, 256, dtype="bfloat16"),
            _mimo(8, 4096, 128, dtype="bfloat16"),
            _memory(4, 4000, 2048, dtype="bfloat16"),
            _dense(4, 4000, 256, "bfloat16"),
            _norm(4, 4000, 512, dtype="bfloat16"),
            _joint(4, 4000, dtype="bfloat16"),
        ),
    ),
    "gpu": Suite(
        device="cuda",
        seconds=0.5,
        workloads=(
            _scan(8, 2048, 1536, "float32"),
            _scan(8, 8192, 1536, "float32"),
            _scan(8, 8192, 1536, "bfloat16"),
            _scan(1, 65536, 1536, "float32"),
            _delta_gpu(1, 32768, 32, 32),
            _delta_gpu(4, 8192, 32, 32),
            _delta_gpu(4, 2048, 32, 32),
            _delta_gpu(1, 8192, 16, 16),
            _delta_gpu(1, 32768, 16, 16),
            _delta_gpu(1, 2048, 16, 16),
            _delta_gpu(4, 2048, 16, 16),
            _delta_gpu(1, 8192, 8, 16),
            _delta_gpu(4, 2048, 8, 16),
            _delta_gpu(8, 1024, 8, 16),
            _delta_gpu(1, 32768, 8, 16),
            _delta_gpu(8, 4096, 8, 16),
            _delta_gpu(1, 32768, 16, 32),
            _delta_gpu(8, 4096, 16, 32),
            _delta_gpu(1, 32768, 2, 8),
            _delta_gpu(1, 2048, 2, 8),
            _delta_gpu(4, 2048, 32, 32, "plain"),
            _delta_gpu(4, 2048, 16, 16, "product"),
            _delta(8, 1024, 8, 8, 64, 64, "gated", "bfloat16"),
            _delta(8, 2048, 32, 32, 256, 256, "gated", "bfloat16"),
            _selective(2, 4096, 4096, dtype="float32"),
            _selective(2, 4096, 4096, dtype="bfloat16"),
            _selective(8, 2048, 1536, dtype="bfloat16"),
            _selective(1, 32768, 4096, dtype="bfloat16"),
            _selective(2, 4096, 4096, case="mixer", dtype="bfloat16"),
            _ssd(2, 4096, 32, dtype="float32"),
            _ssd(2, 4096, 32, dtype="bfloat16"),
            _ssd(8, 2048, 24, dtype="bfloat16"),
            _ssd(1, 32768, 32, dtype="bfloat16"),
            _ssd(2, 4096, 32, case="negative", dtype="bfloat16"),
            _diagonal(8, 4096, 256),
            _diagonal(8, 4096, 256, dtype="bfloat16"),
            _diagonal(1, 65536, 256, dtype="bfloat16"),
            _mimo(8, 4096, 128),
            _mimo(8, 4096, 128, dtype="bfloat16"),
            _mimo(32, 1024, 512, dtype="bfloat16"),
            _mimo(1, 65536, 128, dtype="bfloat16"),
            _memory(4, 4000, 2048),
            _memory(4, 4000, 2048, dtype="bfloat16"),
            _memory(4, 4000, 256, "grouped", dtype="bfloat16"),
            _dense(4, 4000, 256),
            _dense(4, 4000, 256, "bfloat16"),
            _norm(4, 4000, 512, dtype="bfloat16"),
            _norm(4, 4000, 256, "per channel", "bfloat16"),
            _joint(4, 4000),
            _joint(4, 4000, dtype="bfloat16"),
            _joint(1, 16000, dtype="bfloat16"),
        ),
    ),
}


def find_suite(name: str, ops: Sequence[str]) -> Suite:
    """Suite `name`, reduced to the workloads of `ops`.

    Raises:
        ValueError: an unknown suite or op, with the nearest known name.
    """
    check_name("suite", name, tuple(SUITES))
    for op in ops:
        check_name("op", op, OPS)
    suite = SUITES[name]
    return replace(suite, workloads=tuple(w for w in suite.workloads if w.op in ops))
