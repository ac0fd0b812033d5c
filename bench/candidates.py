# SPDX-License-Identifier: Apache-2.0
"""Which launch rows are worth trying, by family: data of the search in `tune.py`."""

from collections.abc import Mapping
from dataclasses import dataclass

from seqlib_kernels._core.launch import Launch

from .launch_rows import Change, changed


@dataclass(frozen=True)
class Step:
    """One coordinate of the search: changes of the row found so far, of which the best stays.

    Attributes:
        changes: tiles, num_warps and num_stages by name.
        kernel: the one kernel they are for, as `Launch.per_kernel` calls it; all by default.
    """

    changes: tuple[Change, ...]
    kernel: str = ""

    def candidates(self, row: Launch) -> list[Launch]:
        """The rows that differ from `row`, each once."""
        found: list[Launch] = []
        for change in self.changes:
            candidate = changed(row, change, self.kernel)
            if candidate != row and candidate not in found:
                found.append(candidate)
        return found


@dataclass(frozen=True, kw_only=True)
class Space:
    """The search of one family.

    Attributes:
        steps: in their order. None of the tiles of time may break `OpSpec.exact_cut`, which is
            a promise to users.
        width: the size by which the family's table is asked.
        small: what is smaller in the problem on which a candidate is compared first.
    """

    steps: tuple[Step, ...]
    width: str
    small: Mapping[str, int]


def _each(name: str, *values: int) -> tuple[Change, ...]:
    return tuple({name: value} for value in values)


def _pairs(first: str, values: tuple[int, ...], second: str, *more: int) -> tuple[Change, ...]:
    return tuple({first: x, second: y} for x in values for y in more)


def _warps(kernel: str, *values: int) -> Step:
    return Step(_each("num_warps", *values), kernel)


def _stages(kernel: str, *values: int) -> Step:
    return Step(_each("num_stages", *values), kernel)


# At most 24 candidates lie around a row: a candidate of the delta rule takes seconds to compile.
SPACES: Mapping[str, Space] = {
    "linear_scan": Space(
        steps=(
            Step(_pairs("BT", (8, 16, 32), "BD", 16, 32, 64, 128)),
            _warps("", 1, 2, 4, 8),
            _stages("", 1, 2, 3, 4),
            Step(_each("BD", 16, 32, 64, 128)),  # once more, with the warps found
        ),
        width="D",
        small={"D": 100},
    ),
    "delta_rule": Space(
        steps=(
            Step(_pairs("C", (16, 32, 64), "num_warps", 4, 8)),
            Step(_each("BV", 16, 32, 64)),
            Step(_each("BK", 32, 64)),
            _warps("chunk_matrices", 2, 4, 8),
            _warps("forward_sweep", 2, 4, 8),
            _stages("forward_sweep", 1, 2, 3),
            _warps("backward_sweep", 2, 4, 8),
            _stages("backward_sweep", 1, 2, 3),
            Step((*_each("num_warps", 2, 4, 8), *_each("BK", 32, 64)), "chunk_gradients"),
            _stages("chunk_gradients", 1, 2, 3),
        ),
        width="K",
        small={"H": 1, "HV": 2},
    ),
    "selective_scan": Space(
        steps=(
            Step(_pairs("BT", (8, 16), "BD", 16, 32, 64)),
            _warps("", 2, 4, 8),
            _stages("", 1, 2, 3),
            _warps("scan", 2, 4, 8),
            _stages("scan", 1, 2, 3),
            _warps("adjoint", 2, 4, 8),
            _stages("adjoint", 1, 2, 3),
            _warps("sums", 2, 4, 8),
        ),
        width="D",
        small={"D": 100},
    ),
    "ssd": Space(
        steps=(
            Step(_pairs("C", (16, 32, 64), "BP", 32, 64)),
            Step(_each("BN", 16, 32, 64)),
            Step(_pairs("num_warps", (4, 8), "num_stages", 1, 2, 3)),
            _warps("forward_sweep", 2, 4, 8),
            _warps("chunk_outputs", 2, 4, 8),
            _warps("both_sweeps", 2, 4, 8),
            _warps("write_gradients", 2, 4, 8),
            _warps("group_gradients", 2, 4, 8),
        ),
        width="N",
        small={"H": 2},
    ),
    "diagonal_ssm": Space(
        steps=(
            Step(_pairs("BT", (16, 32), "BM", 16, 32)),
            Step(_pairs("BH", (4, 8, 16), "num_warps", 4, 8, 16)),
            _stages("", 1, 2, 3),
            _warps("make_tables", 2, 4, 8),
            Step((*_each("num_warps", 4, 8, 16), *_each("BH", 4, 8, 16)), "table_gradients"),
            _warps("parameter_gradients", 2, 4, 8),
        ),
        width="M",
        small={"H": 10, "M": 5},
    ),
    "mimo_ssm": Space(
        steps=(
            Step(_pairs("BP", (16, 32, 64), "BH", 32, 64, 128)),
            Step(_each("BK", 16, 32, 64)),
            _warps("", 2, 4, 8),
            _stages("", 1, 2, 3),
        ),
        width="H",
        small={"H": 40, "P": 24},
    ),
    "fsmn_memory": Space(
        steps=(
            Step(_pairs("BT", (16, 32, 64), "BC", 32, 64, 128)),
            _warps("", 2, 4, 8),
            _stages("", 1, 2, 3),
        ),
        width="C",
        small={"C": 100},
    ),
    "dense_fsmn_memory": Space(
        steps=(
            Step(_pairs("BT", (16, 32, 64), "BC", 32, 64, 128)),
            Step(_each("SPAN", 128, 256, 512)),
            _warps("", 2, 4, 8),
            _stages("", 1, 2, 3),
        ),
        width="C",
        small={"C": 100},
    ),
    "sequence_norm": Space(
        steps=(
            Step(_pairs("BT", (16, 32, 64), "BC", 32, 64, 128)),
            Step(_each("SPAN", 128, 256, 512)),
            _warps("", 2, 4, 8),
        ),
        width="C",
        small={"C": 100},
    ),
    "joint_attention": Space(
        steps=(
            Step(_pairs("BR", (32, 64), "BE", 32, 64, 128)),
            Step(_each("BK", 32, 64, 256)),
            _warps("", 4, 8),
            _warps("attend", 4, 8),
            _stages("attend", 1, 2, 3),
            _warps("z_gradients", 4, 8),
            _warps("score_gradients", 4, 8),
            _warps("memory_pieces", 4, 8),
            Step(_each("COLUMNS", 64, 128, 256)),
        ),
        width="E",
        small={"E": 100, "S": 40},
    ),
}


def around(space: Space, row: Launch) -> int:
    """How many candidates a search has in which none is better than `row`."""
    seen: list[Launch] = []
    for step in space.steps:
        seen += [candidate for candidate in step.candidates(row) if candidate not in seen]
    return len(seen)
