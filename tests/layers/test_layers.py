# SPDX-License-Identifier: Apache-2.0
"""Norms, the MLP, rotary positions, positions in packed rows, the warning about 16 bits."""

import logging

import pytest
import torch
import torch.nn.functional as F

from seqlib.layers import half_precision
from seqlib.layers.mlp import SwiGLU, swiglu_width
from seqlib.layers.norm import RMSNorm
from seqlib.layers.packed import sequence_and_position
from seqlib.layers.rotary import rotate


def test_rms_norm_is_its_formula_with_and_without_a_gate():
    x, gate = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    norm = RMSNorm(8, eps=1e-3).double()
    torch.nn.init.normal_(norm.weight)
    want = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), want, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(norm(x, gate), want * F.silu(gate), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("groups", [1, 2])
def test_rms_norm_after_the_gate_and_in_groups(groups):
    x, gate = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    norm = RMSNorm(8, eps=1e-3, gate_first=True, groups=groups).double()
    torch.nn.init.normal_(norm.weight)
    for y, got in ((x * F.silu(gate), norm(x, gate)), (x, norm(x))):
        square = y.square().view(2, 3, groups, -1).mean(-1, keepdim=True)
        scale = (square + 1e-3).sqrt().expand(2, 3, groups, 8 // groups).reshape(y.shape)
        torch.testing.assert_close(got, y / scale * norm.weight, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("groups", [0, 3])
def test_rms_norm_refuses_groups_of_different_size(groups):
    with pytest.raises(ValueError, match=f"groups must divide dim=8, got {groups}"):
        RMSNorm(8, groups=groups)


def test_rms_norm_computes_bfloat16_in_float32():
    x, norm = torch.randn(4, 64).bfloat16(), RMSNorm(64)
    want = norm(x.float()).bfloat16()
    got = norm.bfloat16()(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)


def test_swiglu_is_its_formula():
    mlp, x = SwiGLU(8, 12), torch.randn(2, 8)
    gate, up, down = (p.detach() for p in mlp.parameters())
    torch.testing.assert_close(mlp(x), (F.silu(x @ gate.T) * (x @ up.T)) @ down.T)


@pytest.mark.parametrize(("hidden_size", "width"), [(1024, 2816), (2048, 5632), (96, 256)])
def test_swiglu_width(hidden_size, width):
    assert swiglu_width(hidden_size) == width


def test_rotation_keeps_norms_and_depends_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 3, 16, dtype=torch.float64)
    position = torch.arange(7)[None]
    products = []
    for offset in (0, 5):
        q_T = rotate(q.expand(1, 7, 3, 16), position + offset, 10000.0)
        k_T = rotate(k.expand(1, 7, 3, 16), position + offset, 10000.0)
        products.append(torch.einsum("bthk,bshk->bhts", q_T, k_T))
        torch.testing.assert_close(q_T.norm(dim=-1), q.expand(1, 7, 3, 16).norm(dim=-1))
    # angles are float32: measured difference 7e-7
    torch.testing.assert_close(products[0], products[1], rtol=0, atol=5e-6)
    assert (products[0][0, 0, 0] - products[0][0, 0, 0, 0]).abs().max() > 0.1


def test_rotation_turns_the_first_pair_by_one_radian_per_position():
    x = torch.zeros(1, 3, 1, 4, dtype=torch.float64)
    x[..., 0] = 1
    y = rotate(x, torch.arange(3)[None], 100.0)[0, :, 0]
    angle = torch.arange(3.0, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    want = torch.stack((angle.cos(), zero, angle.sin(), zero), -1)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-7)


def test_positions_in_packed_rows_skip_empty_sequences():
    bounds = torch.tensor([0, 0, 2, 2, 5, 5])
    sequence, position = sequence_and_position(bounds, 5, torch.device("cpu"))
    assert sequence.tolist() == [1, 1, 3, 3, 3]
    assert position.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("supported", [False, True])
def test_16_bits_on_a_cpu_without_them_are_mentioned_once(monkeypatch, caplog, supported):
    half_precision._warn.cache_clear()
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False
    )
    with caplog.at_level(logging.WARNING):
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16):
            half_precision.warn_if_slow(torch.zeros(1, dtype=dtype))
    half_precision._warn.cache_clear()
    assert len(caplog.records) == (0 if supported else 1)
