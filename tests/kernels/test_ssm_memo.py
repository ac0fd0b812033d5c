# SPDX-License-Identifier: Apache-2.0
"""What is remembered between steps, and everything that makes it be computed again."""

import gc
import weakref

import pytest
import torch
from seqlib_kernels.ssm.memo import remembered

CALLS = []


def twice(x, y, factor):
    CALLS.append(factor)
    return factor * x + y


def calls(x, y, factor=2.0) -> int:
    """How often `twice` is called by one call; its result is right in any case."""
    CALLS.clear()
    got = remembered(twice, (x, y), factor)
    assert torch.equal(got, factor * x + y)
    return len(CALLS)


@pytest.fixture
def tensors():
    return torch.randn(3), torch.randn(3)


def test_the_same_tensors_are_computed_once(tensors):
    x, y = tensors
    assert [calls(x, y) for _ in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("which", [0, 1])
def test_changed_or_other_tensors_are_computed_again(tensors, which):
    calls(*tensors)
    tensors[which].add_(1)
    assert calls(*tensors) == 1
    assert calls(*tensors) == 0
    others = [x.clone() if i == which else x for i, x in enumerate(tensors)]
    assert calls(*others) == 1


def test_other_options_and_functions_are_computed_again(tensors):
    calls(*tensors)
    assert calls(*tensors, factor=3.0) == 1
    assert torch.equal(remembered(torch.add, tensors), tensors[0] + tensors[1])


def test_nothing_is_kept_where_gradients_flow(tensors):
    x, y = tensors
    x.requires_grad_()
    assert [calls(x, y) for _ in range(2)] == [1, 1]
    with torch.no_grad():
        assert [calls(x, y) for _ in range(2)] == [1, 0]
    assert remembered(twice, (x, y), 2.0).requires_grad


def test_tensor_options_and_inference_mode_are_computed_every_time(tensors):
    x, y = tensors
    assert [calls(x, y, torch.tensor(2.0)) for _ in range(2)] == [1, 1]
    with torch.inference_mode():
        assert [calls(x, y) for _ in range(2)] == [1, 1]


def test_nothing_outlives_its_tensors():
    x, y = torch.randn(3), torch.randn(3)
    kept = weakref.ref(remembered(twice, (x, y), 2.0))
    assert kept() is not None
    del x
    gc.collect()
    assert kept() is None
