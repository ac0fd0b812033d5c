# SPDX-License-Identifier: Apache-2.0
"""What chunked families choose before a launch: arithmetic, and slots of chunks."""

import pytest
import torch
from seqlib_kernels._core.chunks import arithmetic, itemsize, slots
from seqlib_kernels._core.launch import INTERPRETER, Launch

ROWS = {
    arch: Launch(arch=arch, itemsize=4, width=64, tiles={})
    for arch in (INTERPRETER, "sm_80", "sm_90", "gfx942")
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("arch", ROWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_passes_between_kernels_in_float16(arch, dtype):
    """States have no bound: float16 ends at 65504, and infinity times zero is NaN."""
    made = arithmetic(dtype, ROWS[arch])
    assert made.kept == made.dot
    assert made.kept == {torch.float16: torch.float32}.get(dtype, dtype)
    assert itemsize(dtype) == made.kept.itemsize


def test_float32_is_never_multiplied_in_a_single_pass_of_tf32():
    for arch, row in ROWS.items():
        for dtype in (torch.float32, torch.float64):
            made = arithmetic(dtype, row)
            assert {made.precision, made.exact} <= {"ieee", "tf32x3"}, (arch, dtype)
        assert arithmetic(torch.float16, row).exact != "tf32"
        assert arithmetic(torch.bfloat16, row).exact != "tf32"


@pytest.mark.parametrize(
    "lengths",
    [(0,), (1,), (16,), (0, 0, 0), (1, 1, 1, 1), (15, 16, 17), (64, 0, 1, 31), (0, 33, 0, 48, 0)],
)
def test_slots_hold_every_chunk_of_packed_sequences_once(lengths):
    span, start, taken = 16, 0, []
    for n, length in enumerate(lengths):
        chunks = (length + span - 1) // span
        taken += [start // span + n + c for c in range(chunks)]
        start += length
    assert len(set(taken)) == len(taken)
    assert max(taken, default=-1) < slots(1, start, len(lengths), span)


@pytest.mark.parametrize("T", [0, 1, 16, 17])
def test_slots_of_a_batch(T):
    assert slots(3, T, 3, 16) == 3 * ((T + 15) // 16)
