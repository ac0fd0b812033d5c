# SPDX-License-Identifier: Apache-2.0
"""What is searched together: the workloads that one launch row serves."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from seqlib_kernels import testing
from seqlib_kernels._core.launch import Launch
from seqlib_kernels._core.spec import OpSpec

from .candidates import SPACES, Space
from .launch_rows import text
from .workloads import Workload, load_spec


@dataclass(frozen=True, kw_only=True)
class Group:
    """Workloads that one launch row serves.

    Attributes:
        stored: the row as the family's table has it.
        row: the same for the device at hand, whose arch may have no rows of its own.
        checks: what the row must pass to be stored: the places in `testing.list_checks`, each
            with its name and its bound in eps.
    """

    op: str
    workloads: tuple[Workload, ...]
    stored: Launch
    row: Launch
    space: Space
    checks: Mapping[int, tuple[str, float]]


def find_groups(
    workloads: Sequence[Workload],
    arch: str,
    device: torch.device,
    *,
    backend: str = "triton",
    spec_of: Callable[[str], OpSpec] = load_spec,
    spaces: Mapping[str, Space] = SPACES,
) -> list[Group]:
    """The workloads by the launch row that serves them on devices of `arch`."""
    found: dict[tuple[str, str], tuple[Launch, list[Workload]]] = {}
    for workload in workloads:
        spec = spec_of(workload.op)
        if spec.launch is None:
            raise ValueError(f"{workload.op} has no launch rows to search")
        dtype = getattr(torch, workload.dtype)
        if spec.complex_state(workload.case):
            dtype = dtype.to_complex()
        rows = sorted(
            spec.launch.serving(arch, spec.launch_itemsize(dtype)), key=lambda row: row.width
        )
        width = workload.dims[spaces[workload.op].width]
        stored = next((row for row in rows if row.width >= width), rows[-1])
        found.setdefault((workload.op, text(stored)), (stored, []))[1].append(workload)
    groups = []
    for (op, _), (stored, served) in found.items():
        checks = enumerate(testing.list_checks(device, backend=backend, specs=[spec_of(op)]))
        bounds = {
            i: (f"{check.case.name} {str(check.dtype).removeprefix('torch.')}", check.row(0)[5])
            for i, check in checks
            if check.launch in (None, stored)
        }
        groups.append(
            Group(
                op=op,
                workloads=tuple(served),
                stored=stored,
                row=dataclasses.replace(stored, arch=arch),
                space=spaces[op],
                checks=bounds,
            )
        )
    return groups
