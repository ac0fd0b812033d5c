# SPDX-License-Identifier: Apache-2.0
"""Results as JSON lines: one line per contender, mode and workload."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FILE = "results.jsonl"
MODES = ("forward", "backward", "both")
STATUSES = ("ok", "wrong", "failed")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement and all it must be traceable to. Seconds, bytes, bytes per second.

    `headline_s` is the best time on a CPU, which other programs share, the median on a GPU.
    `status` is "wrong" where the correctness gate shut and "failed" after an exception, both with a
    `message` and without speeds. `first_call_s` is the first call in the process, compilation
    included. `floor_s` is the larger of `moved_bytes` over the measured copy bandwidth and
    `flops` over the measured rate of matrix products; `roofline` is `floor_s` over
    `headline_s`. Errors that are infinite are null.
    """

    time: str
    suite: str
    op: str
    case: str
    shape: dict[str, int]
    dtype: str
    contender: str
    ours: bool
    version: str | None
    mode: str
    threads: int
    status: str
    message: str | None
    errors: dict[str, float | None]
    clock: str
    headline_s: float | None
    best_s: float | None
    median_s: float | None
    p20_s: float | None
    p80_s: float | None
    samples: int
    first_call_s: float | None
    peak_bytes: int | None
    moved_bytes: float
    flops: float
    copy_bytes_per_s: float
    gemm_flops_per_s: float
    floor_s: float
    roofline: float | None
    launch: list[str]
    device_kind: str
    device: str
    driver: str | None
    allocator: str
    load: float
    commit: str | None
    dirty: bool | None
    python: str
    torch: str
    triton: str | None
    numba: str | None
    numpy: str

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        if self.status != "ok" and self.headline_s is not None:
            raise ValueError(f"a row with status {self.status!r} must report no speed")

    @property
    def workload(self) -> tuple[Any, ...]:
        """What makes two rows comparable: the same work on the same machine."""
        shape = tuple(self.shape.items())
        return self.device, self.op, self.case, shape, self.dtype, self.threads

    @property
    def key(self) -> tuple[Any, ...]:
        """What a newer row replaces an older one by."""
        return *self.workload, self.contender, self.mode


def append(folder: Path, rows: Iterable[Row]) -> None:
    """Add rows to the results in `folder`."""
    append_lines(folder / FILE, map(asdict, rows))


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON lines to a file, all at once; what is not finite is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(_finite(line), allow_nan=False) + "\n" for line in values)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read(folder: Path) -> list[Row]:
    """The newest row of each key, in the order in which keys first appeared.

    Raises:
        FileNotFoundError: no results in `folder`.
        ValueError: a line that is no row, with its number.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no results: {path} does not exist")
    known = {field.name for field in fields(Row)}
    rows: dict[tuple[Any, ...], Row] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            if set(values) != known:
                odd = ", ".join(sorted(set(values) ^ known))
                raise ValueError(f"fields missing or unknown: {odd}")
            row = Row(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}, is no result: {error}") from error
        rows[row.key] = row
    return list(rows.values())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
