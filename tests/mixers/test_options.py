# SPDX-License-Identifier: Apache-2.0
"""Options: defaults, what they change, and values that can't be."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from seqlib_kernels import use_backend

from seqlib.mixers import MIXERS, mixer_class

BAD = {
    "delta_net": [
        ({"num_heads": 0}, "num_heads must be positive, got 0"),
        ({"num_heads": 5}, "the key size of a head must be a whole number"),
        ({"num_heads": 2, "expand_v": 0.7}, "the value size of a head must be a whole number"),
        ({"conv_size": 0}, "conv_size must be positive, got 0"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
    ],
    "gated_delta_net": [
        ({"num_heads": 2, "num_v_heads": 3}, "num_v_heads must be a multiple of num_heads=2"),
        ({"num_heads": 7}, "head_dim must be a whole number above zero, got 3/4"),
        ({"head_dim": -4}, "head_dim must be positive, got -4"),
        ({"expand_v": 0.01}, "the value size of a head must be a whole number"),
    ],
    "delta_product": [({"num_householder": 0}, "num_householder must be positive, got 0")],
    "full_attention": [
        ({"num_heads": 5}, "num_heads must divide hidden_size=24"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads must divide num_heads=4, got 3"),
        ({"num_heads": 8}, "head_dim must be even for rotary positions, got 3"),
        ({"rope_theta": 0}, "rope_theta must be positive, got 0"),
    ],
}


@pytest.mark.parametrize(
    ("name", "options", "message"), [(n, o, m) for n, rows in BAD.items() for o, m in rows]
)
def test_values_that_can_not_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        MIXERS[name](24, **options)


def test_an_unknown_mixer_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="no mixer 'delta_nett'; did you mean 'delta_net'"):
        mixer_class("delta_nett")
    with pytest.raises(ValueError, match="no mixer 'xyz'; known: delta_net, delta_product"):
        mixer_class("xyz")


@pytest.mark.parametrize("name", [n for n in MIXERS if n != "full_attention"])
def test_negative_eigenvalues_are_the_default_everywhere(name):
    parameter = inspect.signature(MIXERS[name].__init__).parameters["negative_eigenvalues"]
    assert parameter.default is True


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("hidden_size", [32, 1024])
def test_defaults_fit_small_and_large_models(name, hidden_size):
    with torch.device("meta"):
        mixer = MIXERS[name](hidden_size)
    sizes = {p: tuple(v.shape) for p, v in mixer.named_parameters()}
    assert sizes["o_proj.weight"][0] == hidden_size
    parameters = sum(p.numel() for p in mixer.parameters())
    assert 3.9 * hidden_size**2 < parameters < 10 * hidden_size**2


@pytest.mark.parametrize("tokens", [1, 6])
def test_negative_eigenvalues_reach_the_op_and_the_step(tokens):
    """One key, written twice with beta = 2: the state changes its sign, with beta = 1 it stays."""
    mixer = MIXERS["delta_net"](8, num_heads=1, use_short_conv=False)
    plain = MIXERS["delta_net"](8, num_heads=1, use_short_conv=False, negative_eigenvalues=False)
    plain.load_state_dict(mixer.state_dict())
    x = torch.randn(1, 1, 8)
    with torch.no_grad():
        for m in (mixer, plain):
            m.b_proj.weight.copy_(1e3 * x[0])  # sigmoid = 1
            m.v_proj.weight.zero_()
    key = F.normalize(F.silu(mixer.k_proj(x)), dim=-1)[0]
    before = {"recurrent": torch.einsum("tk,v->tkv", key, torch.ones(8))[None]}
    run = x.expand(1, tokens, 8)
    with use_backend("reference"):
        _, turned = mixer(run, state=before, return_state=True)
        _, erased = plain(run, state=before, return_state=True)
    sign = (-1) ** tokens
    torch.testing.assert_close(turned["recurrent"], sign * before["recurrent"], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        erased["recurrent"], torch.zeros_like(before["recurrent"]), atol=1e-4, rtol=0
    )


def test_decay_parameters_of_any_dtype_give_the_same_decay():
    torch.manual_seed(0)
    mixer = MIXERS["gated_delta_net"](24, num_heads=2, head_dim=4)
    with torch.no_grad():  # values that bfloat16 holds exactly
        mixer.A_log.copy_(torch.tensor([0.5, 1.5]))
        mixer.dt_bias.copy_(torch.tensor([-4.0, -2.0]))
    x = torch.randn(2, 5, 24)
    want, _ = mixer(x)
    mixer.A_log.data = mixer.A_log.data.bfloat16()
    mixer.dt_bias.data = mixer.dt_bias.data.bfloat16()
    assert torch.equal(mixer(x)[0], want)


def test_fresh_decays_span_their_ranges():
    torch.manual_seed(0)
    values = MIXERS["gated_delta_net"](1024, num_heads=512, head_dim=2).initial_values()
    rate, step = values["A_log"].exp(), F.softplus(values["dt_bias"])
    assert 0 < rate.min() < 1
    assert 15 < rate.max() <= 16
    assert 0.00099 < step.min() < 0.002
    assert 0.05 < step.max() < 0.1001
