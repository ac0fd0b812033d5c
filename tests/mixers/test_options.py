# SPDX-License-Identifier: Apache-2.0
"""Options: defaults, what they change, and values that can't be."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from seqlib_kernels import use_backend

from seqlib.mixers import MIXERS, mixer_class
from seqlib.mixers.checks import check_kinds

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
    "mamba": [
        ({"d_state": 0}, "d_state must be positive, got 0"),
        ({"d_conv": 0}, "d_conv must be positive, got 0"),
        ({"expand": -1.0}, "expand must be positive, got -1"),
        ({"expand": 0.7}, "the inner width must be a whole number above zero, got hidden_size"),
        ({"dt_rank": 0}, "dt_rank must be positive, got 0"),
    ],
    "mamba2": [
        ({"d_state": 0}, "d_state must be positive, got 0"),
        ({"head_dim": 8, "d_conv": 0}, "d_conv must be positive, got 0"),
        ({"expand": 0.7}, "the inner width must be a whole number above zero, got hidden_size"),
        ({"head_dim": 0}, "head_dim must be positive, got 0"),
        ({"head_dim": 10}, r"head_dim must divide hidden_size \* expand = 48, got 10"),
        ({"head_dim": 8, "n_groups": 4}, "n_groups must divide the number of heads, 6, got 4"),
        ({"head_dim": 8, "n_groups": 0}, "n_groups must be positive, got 0"),
        ({"head_dim": 8, "norm_eps": 0}, "norm_eps must be positive, got 0"),
    ],
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


WRONG = {bool: ["false", 1, None], int: ["4", 2.5, True], float: ["1e-6", True]}


@pytest.mark.parametrize("name", MIXERS)
def test_options_from_files_have_the_kind_of_their_annotation(name):
    build = MIXERS[name].__init__
    options = list(inspect.signature(build).parameters.values())[2:]  # after self, hidden_size
    check_kinds(build, {o.name: o.default for o in options}, name)
    for option in options:
        kind = int if option.annotation == int | None else option.annotation
        for value in WRONG[kind]:
            with pytest.raises(
                TypeError, match=rf"{option.name} of {name} must be {kind.__name__}"
            ):
                check_kinds(build, {option.name: value}, name)
        if kind is float:
            check_kinds(build, {option.name: 2}, name)


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
    out = "out_proj" if "out_proj.weight" in sizes else "o_proj"
    assert sizes[f"{out}.weight"][0] == hidden_size
    parameters = sum(p.numel() for p in mixer.parameters())
    # 128 states, whatever the width, make up most of a small Mamba-2
    most = 16 if name == "mamba2" and hidden_size == 32 else 10
    assert 3.9 * hidden_size**2 < parameters < most * hidden_size**2


WHOLE = {"d_state": 2, "head_dim": 8}


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


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize(("name", "options"), [("mamba", {"d_state": 2}), ("mamba2", WHOLE)])
def test_mamba_flips_a_state_with_negative_eigenvalues_only(name, options, tokens):
    """A large step: a = exp(Delta A) is 0, and 2 exp(Delta A) - 1 is -1; nothing is written."""
    mixer = MIXERS[name](8, **options)
    plain = MIXERS[name](8, **options, negative_eigenvalues=False)
    with torch.no_grad():
        mixer.dt_bias.fill_(1e3)
        mixer.conv1d.weight.zero_()  # so B and x are 0
    plain.load_state_dict(mixer.state_dict())
    x = torch.randn(1, tokens, 8)
    _, state = mixer(x[:, :1], return_state=True)
    state["recurrent"] = torch.ones_like(state["recurrent"])
    with use_backend("reference"):
        _, turned = mixer(x, state=state, return_state=True)
        _, erased = plain(x, state=state, return_state=True)
    assert torch.equal(turned["recurrent"], (-1) ** tokens * state["recurrent"])
    assert torch.equal(erased["recurrent"], torch.zeros_like(state["recurrent"]))


# values that bfloat16 holds exactly
EXACT = {"A_log": (0.5, 1.5), "dt_bias": (-4.0, -2.0), "D": (0.25, 3.0)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gated_delta_net", {"num_heads": 2, "head_dim": 4}),
        ("mamba", {"d_state": 2}),
        ("mamba2", {"d_state": 4, "head_dim": 24}),
    ],
)
def test_decay_parameters_of_any_dtype_give_the_same_decay(name, options):
    torch.manual_seed(0)
    mixer = MIXERS[name](24, **options)
    own = [p for n, p in mixer.named_parameters() if n in mixer.keep_in_float32]
    assert len(own) == len(mixer.keep_in_float32)
    with torch.no_grad():
        for key in mixer.keep_in_float32:
            parameter = getattr(mixer, key)
            parameter.copy_(
                torch.tensor(EXACT[key]).repeat(parameter.numel() // 2).view_as(parameter)
            )
    x = torch.randn(2, 5, 24)
    want, _ = mixer(x)
    for parameter in own:
        parameter.data = parameter.data.bfloat16()
    assert torch.equal(mixer(x)[0], want)


def test_fresh_decays_span_their_ranges():
    torch.manual_seed(0)
    values = MIXERS["gated_delta_net"](1024, num_heads=512, head_dim=2).initial_values()
    rate, step = values["A_log"].exp(), F.softplus(values["dt_bias"])
    assert 0 < rate.min() < 1
    assert 15 < rate.max() <= 16
    assert 0.00099 < step.min() < 0.002
    assert 0.05 < step.max() < 0.1001


def test_fresh_mamba_parameters_are_the_published_ones():
    torch.manual_seed(0)
    mixer = MIXERS["mamba"](512, d_state=4)
    torch.testing.assert_close(mixer.A_log.exp(), torch.tensor([1.0, 2, 3, 4]).expand(1024, 4))
    assert torch.equal(mixer.D, torch.ones(1024))
    weight = mixer.dt_proj.initial_values()["weight"]  # 32 inputs
    assert weight.abs().max() <= 32**-0.5
    assert weight.abs().mean().item() == pytest.approx(32**-0.5 / 2, rel=0.05)
    step = F.softplus(mixer.dt_bias)
    assert 0.00099 < step.min() < 0.0011
    assert 0.09 < step.max() < 0.1001


def test_fresh_mamba2_parameters_are_the_published_ones():
    torch.manual_seed(0)
    mixer = MIXERS["mamba2"](512, head_dim=1)
    rate, step = mixer.A_log.exp(), F.softplus(mixer.dt_bias)
    assert 1 <= rate.min() < 1.1
    assert 15.9 < rate.max() <= 16
    assert torch.equal(mixer.D, torch.ones(1024))
    assert 0.00099 < step.min() < 0.0011
    assert 0.09 < step.max() < 0.1001
