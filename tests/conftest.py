# SPDX-License-Identifier: Apache-2.0
"""Which tests run in this process, and memory that shows what a kernel did not write."""

import os
from collections.abc import Iterator

import pytest
import torch
from seqlib_kernels._core import alloc

FENCE = 64  # elements on either side of an output

_INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"
_deselected: dict[str, int] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, and count, what this process can't run: a skip would look like a result."""
    kept, dropped = [], []
    for item in items:
        reason = _unrunnable(item)
        if reason is None:
            kept.append(item)
        else:
            dropped.append(item)
            _deselected[reason] = _deselected.get(reason, 0) + 1
    items[:] = kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def pytest_report_collectionfinish() -> list[str]:
    """Say why tests were deselected."""
    return [f"deselected {count}: {reason}" for reason, count in sorted(_deselected.items())]


def _unrunnable(item: pytest.Item) -> str | None:
    interpret = item.get_closest_marker("interpret") is not None
    if _INTERPRETING and not interpret:
        return "this process only interprets Triton kernels (TRITON_INTERPRET=1)"
    if interpret and not _INTERPRETING:
        return "interpret: TRITON_INTERPRET=1 must be set before the process starts"
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        return "gpu: there is no GPU"
    return None


@pytest.fixture
def fenced_memory(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Kernel outputs start as NaN and sit between fences that must stay untouched."""
    if request.node.get_closest_marker("no_fence"):
        yield
        return
    buffers = []

    def empty(shape, like, dtype=None):
        dtype = dtype or like.dtype
        n = torch.Size(shape).numel()
        # Bytes of ones are a NaN in every floating dtype.
        ones = torch.full(((n + 2 * FENCE) * dtype.itemsize,), 255, dtype=torch.uint8)
        buffer = ones.to(like.device).view(dtype)
        buffers.append((buffer, n))
        return buffer[FENCE : FENCE + n].view(shape)

    monkeypatch.setattr(alloc, "empty", empty)
    yield
    for buffer, n in buffers:
        fences = torch.cat([buffer[:FENCE], buffer[FENCE + n :]])
        assert (fences.view(torch.uint8) == 255).all(), "a kernel wrote outside its output"
