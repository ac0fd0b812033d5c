# SPDX-License-Identifier: Apache-2.0
"""The short convolution against conv1d, row by row and token by token."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from seqlib.layers.short_conv import ShortConvolution

B, T, C = 3, 11, 5

# the order of the sums is the same, silu differs by an ulp between whole vectors and their rest
ULPS = {"rtol": 0, "atol": 4e-16}


def conv1d(conv: ShortConvolution, x: torch.Tensor) -> torch.Tensor:
    """The definition, for one row without padding: x [T, C]."""
    K = conv.kernel_size
    padded = F.pad(x.T[None], (K - 1, 0))
    return F.silu(F.conv1d(padded, conv.weight, conv.bias, groups=x.shape[1]))[0].T


@pytest.fixture(params=[(1, False), (2, False), (4, False), (4, True)])
def conv(request: pytest.FixtureRequest) -> ShortConvolution:
    torch.manual_seed(0)
    conv = ShortConvolution(C, *request.param).double()
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    return conv


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(B, T, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_is_conv1d_and_silu_with_gradients(conv, x):
    x.requires_grad_()
    y, state = conv(x)
    want = torch.stack([conv1d(conv, row) for row in x])
    assert state is None
    torch.testing.assert_close(y, want, rtol=0, atol=1e-14)
    cotangent = torch.randn_like(y)
    inputs = (x, *conv.parameters())
    got = torch.autograd.grad(y, inputs, cotangent)
    want = torch.autograd.grad(want, inputs, cotangent)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_two_pieces_with_the_state_equal_one(conv, x, cut):
    whole, last = conv(x, return_state=True)
    first, state = conv(x[:, :cut], return_state=True)
    second, state = conv(x[:, cut:], state=state, return_state=True)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, **ULPS)
    assert torch.equal(state, last)


def test_padding_anywhere_is_as_if_it_were_not_there(conv, x):
    mask = torch.rand(B, T, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[0] = False  # a row of padding alone
    before = torch.randn(B, conv.kernel_size - 1, C, dtype=torch.float64)
    y, state = conv(x, state=before, mask=mask, return_state=True)
    for b in range(B):
        want, last = conv(x[b][mask[b]][None], state=before[b][None], return_state=True)
        torch.testing.assert_close(y[b][mask[b]], want[0], **ULPS)
        assert torch.equal(state[b], last[0])


def test_packed_sequences_do_not_see_each_other(conv, x):
    bounds = torch.tensor([0, 1, 1, 4, 11, 11])
    y, _ = conv(x[:1], cu_seqlens=bounds)
    for start, stop in pairwise(bounds):
        torch.testing.assert_close(y[:, start:stop], conv(x[:1, start:stop])[0], **ULPS)


def test_sums_are_wider_than_bfloat16(x):
    conv = ShortConvolution(C, 4, bias=True)
    torch.nn.init.normal_(conv.bias)
    rounded = x.bfloat16()
    want = conv(rounded.float())[0].bfloat16()
    assert torch.equal(conv(rounded)[0], want)


def test_kernel_size_below_one_is_refused():
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        ShortConvolution(C, 0)


def test_a_fresh_bias_is_zero():
    assert torch.equal(ShortConvolution(C, 4, bias=True).initial_values()["bias"], torch.zeros(C))
    assert ShortConvolution(C, 4).initial_values().keys() == {"weight"}
