# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation: torch's for whole batches, and the same of real tokens alone for others."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from seqlib.layers.batch_norm import BatchNorm

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def norm() -> BatchNorm:
    torch.manual_seed(0)
    norm = BatchNorm(6, eps=1e-3, momentum=0.05).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.fixture
def torchs(norm) -> nn.BatchNorm1d:
    torchs = nn.BatchNorm1d(6, eps=1e-3, momentum=0.05).double()
    torchs.load_state_dict(norm.state_dict(), strict=False)
    return torchs


@pytest.fixture
def x() -> torch.Tensor:
    return 3 * torch.randn(4, 7, 6, dtype=torch.float64) + 2


def averages(norm):
    return norm.running_mean.clone(), norm.running_var.clone()


def test_whole_batches_are_normalised_as_by_torch(norm, torchs, x):
    for _ in range(3):
        torch.testing.assert_close(norm(x), torchs(x.transpose(1, 2)).transpose(1, 2), **EXACT)
        torch.testing.assert_close(averages(norm), averages(torchs), **EXACT)
        x = x + torch.randn_like(x)
    norm.eval(), torchs.eval()
    for mask in (None, torch.rand(4, 7) < 0.5):
        got = norm(x, mask)
        torch.testing.assert_close(got, torchs(x.transpose(1, 2)).transpose(1, 2), **EXACT)


def test_padding_counts_nowhere(norm, torchs, x):
    mask = torch.rand(4, 7) < 0.6
    holes = x.clone()
    holes[~mask] = float("nan")
    got = norm(holes.requires_grad_(), mask)[mask]
    real = x[mask].requires_grad_()
    want = torchs(real)
    torch.testing.assert_close(got, want, **EXACT)
    torch.testing.assert_close(averages(norm), averages(torchs), **EXACT)
    cotangent = torch.randn_like(want)
    got.backward(cotangent)
    want.backward(cotangent)
    torch.testing.assert_close(holes.grad[mask], real.grad, **EXACT)
    torch.testing.assert_close(norm.weight.grad, torchs.weight.grad, **EXACT)
    torch.testing.assert_close(norm.bias.grad, torchs.bias.grad, **EXACT)


def test_a_full_mask_is_none(norm, x):
    other = copy.deepcopy(norm)
    torch.testing.assert_close(norm(x, torch.ones(4, 7, dtype=torch.bool)), other(x), **EXACT)
    torch.testing.assert_close(averages(norm), averages(other), **EXACT)


def test_a_batch_of_padding_leaves_the_averages(norm, x):
    before = averages(norm)
    assert norm(x, torch.zeros(4, 7, dtype=torch.bool)).isfinite().all()
    assert all(map(torch.equal, averages(norm), before))


def test_two_calls_before_a_gradient(norm, x):
    (norm(x) + norm(2 * x)).sum().backward()
    assert norm.bias.grad.eq(56).all()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_repeated_pass_counts_once(norm, x, use_reentrant, masked):
    mask = torch.rand(4, 7) < 0.6 if masked else None
    want, plain = copy.deepcopy(norm), x.clone().requires_grad_()
    want(plain, mask).square().sum().backward()
    again = x.clone().requires_grad_()
    checkpoint(norm, again, mask, use_reentrant=use_reentrant).square().sum().backward()
    assert torch.equal(again.grad, plain.grad)
    assert all(map(torch.equal, averages(norm), averages(want)))


def test_bfloat16_is_computed_in_float32(x):
    norm, x = BatchNorm(6), x.bfloat16()
    want = copy.deepcopy(norm)(x.float()).bfloat16()
    got = norm(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)
    assert norm.running_mean.dtype == torch.float32


def test_values_that_can_not_be(norm):
    for momentum in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"above 0 and at most 1, got {momentum}"):
            BatchNorm(6, momentum=momentum)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.ones(1, 1, 6, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inductor's own import
def test_compiled_training_is_the_same(norm, x):
    other, mask = copy.deepcopy(norm), torch.rand(4, 7) < 0.6
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for given in (None, mask):
        torch.testing.assert_close(compiled(x, given), norm(x, given), **EXACT)
    torch.testing.assert_close(averages(other), averages(norm), **EXACT)
