# SPDX-License-Identifier: Apache-2.0
"""Launch tables: tiles and warps as plain data, chosen by device, element size and width."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

INTERPRETER = "interpreter"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One row of a table.

    Attributes:
        arch: "sm_90", "gfx942", ... or INTERPRETER, for Triton's interpreter on CPU tensors.
        itemsize: bytes per real number of the inputs.
        width: the row serves widths (channels, head size) up to this one.
        tiles: constexpr arguments of the kernels, by name.
        per_kernel: what single kernels of the family do otherwise, such as
            {"gradients": {"num_warps": 8}}.
    """

    arch: str
    itemsize: int
    width: int
    tiles: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 2
    per_kernel: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def compile_options(self, kernel: str) -> dict[str, int | bool]:
        """Warps, stages and rounding of one kernel of the family, without the tiles."""
        own = self.per_kernel.get(kernel, {})
        # Multiplications fused into additions, said aloud: Triton 3.10 changes its default.
        fixed = {"enable_fp_fusion": True}
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **fixed, **own}

    def options(self, kernel: str = "") -> dict[str, int | bool]:
        """The keyword arguments of a kernel launch."""
        return {**self.tiles, **self.compile_options(kernel)}


class LaunchTable:
    """The rows of one family. Every row is a tested row: see `seqlib_kernels.testing`."""

    def __init__(self, rows: tuple[Launch, ...], *, default: str) -> None:
        """`default` names the arch whose rows serve devices that have none."""
        self.rows = rows
        self._default = default
        self._forced: Launch | None = None

    def pick(self, x: Tensor, width: int, itemsize: int | None = None) -> Launch:
        """The row for tensors like `x` whose kernels are `width` wide.

        `itemsize` says how many bytes a number takes in the kernels, where that is not its size
        in `x`.
        """
        if self._forced is not None:
            return self._forced
        arch = device_arch(x.device)
        if not any(row.arch == arch for row in self.rows):
            _say_default(arch, self._default)
            arch = self._default
        if itemsize is None:
            itemsize = x.element_size() // (2 if x.is_complex() else 1)
        rows = sorted(self.serving(arch, itemsize), key=lambda r: r.width)
        return next((r for r in rows if r.width >= width), rows[-1])

    def serving(self, arch: str, itemsize: int) -> tuple[Launch, ...]:
        """The rows that numbers of `itemsize` bytes may be given on devices of `arch`."""
        rows = self.rows_of(arch)
        nearest = min((r.itemsize for r in rows), key=lambda size: abs(size - itemsize))
        return tuple(r for r in rows if r.itemsize == nearest)

    def rows_of(self, arch: str) -> tuple[Launch, ...]:
        """The rows that devices of `arch` may be given."""
        rows = tuple(r for r in self.rows if r.arch == arch)
        return rows or tuple(r for r in self.rows if r.arch == self._default)

    @contextlib.contextmanager
    def forced(self, row: Launch) -> Iterator[None]:
        """Use `row` for every launch inside the block, as tests and the self-check do."""
        previous, self._forced = self._forced, row
        try:
            yield
        finally:
            self._forced = previous


@functools.cache
def device_arch(device: torch.device) -> str:
    """The name of a device's instruction set, as launch rows spell it."""
    if device.type != "cuda":
        return INTERPRETER
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs a device runs side by side at least; 0 where nothing is ever split."""
    if device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def _say_default(arch: str, default: str) -> None:
    logger.warning("no launch rows for %s: those of %s are used", arch, default)
