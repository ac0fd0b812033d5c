# SPDX-License-Identifier: Apache-2.0
"""Options: defaults, what they change, and values that can't be."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from seqlib_kernels import use_backend

from seqlib.mixers import MIXERS, mixer_class
from seqlib.mixers.checks import check_kinds

LSSL = {"mode": "dense", "init": "legs", "discretization": "bilinear"}
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
    "s4": [
        ({"d_state": 0}, "d_state must be positive, got 0"),
        ({"d_state": 24}, "d_state must be one of 2, 8, 16, 32, 64, 128 for init 'ptd'"),
        ({"d_state": 7, "init": "lin"}, "d_state must be even, for conjugate pairs, got 7"),
        ({"d_state": 7, "init": "ptd_rank1"}, "d_state must be even"),
        ({"init": "leg"}, "no init 'leg'; did you mean 'legs'"),
        ({"mode": "dplr"}, "no mode 'dplr'; known: dense, diag, structured"),
        ({"n_ssm": 5}, "n_ssm must divide hidden_size=24, got 5"),
        ({"n_ssm": 3, "init": "diag"}, "n_ssm must be even for init 'diag'"),
        ({"channels": 0}, "channels must be positive, got 0"),
        ({"discretization": "zho"}, "no discretization 'zho'; did you mean 'zoh'"),
        ({"alpha": 1.0}, "alpha must be 0.5 for mode 'diag', got 1.0"),
        ({"dt_min": 0.2}, "dt_min and dt_max must satisfy 0 < dt_min <= dt_max, got 0.2 and 0.1"),
        ({"dt_min": 0.0}, "dt_min and dt_max must satisfy"),
        ({"dt_max": float("inf")}, "dt_min and dt_max must satisfy"),
        ({"dt_transform": "log"}, "no dt_transform 'log'; known: exp, softplus"),
        ({"rate": 0.0}, "rate must be positive, got 0.0"),
        ({"ssm_lr": 0.0}, "ssm_lr must be positive, got 0.0"),
        ({"dt_lr": -1.0}, "dt_lr must be positive, got -1.0"),
        ({"activation": "relu"}, "no activation 'relu'; did you mean 'gelu'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        (LSSL | {"init": "ptd"}, "no init 'ptd'; known: fout, legs, legt"),
        (LSSL | {"mode": "structured", "init": "legt"}, "no init 'legt'; did you mean 'legs'"),
        (LSSL | {"alpha": 1.5}, "alpha must lie between 0 and 1, got 1.5"),
        (LSSL | {"n_ssm": 2}, "n_ssm must be 1 for mode 'dense', got 2"),
        (LSSL | {"discretization": "zoh"}, "discretization must be 'bilinear' for mode 'dense'"),
        (LSSL | {"dt_tie": False}, "dt_tie must be True for mode 'dense', got False"),
        (LSSL | {"bidirectional": True}, "bidirectional must be False for mode 'dense'"),
        (LSSL | {"tie_bc": True}, "tie_bc must be False for mode 'dense', got True"),
    ],
    "fsmn": [
        ({"inner_size": 0}, "inner_size must be positive, got 0"),
        ({"fsmn_order": 0}, "fsmn_order must be positive, got 0"),
        ({"fsmn_depth": -1}, "fsmn_depth must be positive, got -1"),
        ({"conv_kernel_size": 0}, "conv_kernel_size must be positive, got 0"),
        ({"memory": "dense"}, "memory must be 'dilated' or 'plain', got 'dense'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ],
    "s5": [
        ({"d_state": 0}, "d_state must be positive, got 0"),
        ({"blocks": 0}, "blocks must divide d_state=64, got 0"),
        ({"blocks": 3}, "blocks must divide d_state=64, got 3"),
        ({"blocks": 16}, r"d_state / blocks must be one of .* for init 'ptd', .* got 4"),
        ({"d_state": 9, "init": "legs"}, "d_state / blocks must be even, for conjugate pairs"),
        ({"init": "lin"}, "no init 'lin'; known: legs, ptd, ptd_rank1"),
        ({"b_init": "lecun"}, "no b_init 'lecun'; known: hippo, lecun_normal"),
        ({"c_init": "x"}, "no c_init 'x'; known: complex_normal, lecun_normal"),
        ({"discretization": "euler"}, "no discretization 'euler'; known: bilinear, zoh"),
        ({"opt_config": "fast"}, "no opt_config 'fast'; known: BandCdecay, BfastandCdecay"),
        ({"activation": "glu"}, "no activation 'glu'; did you mean"),
        ({"dt_min": 1.0}, "dt_min and dt_max must satisfy"),
        ({"rate": -1.0}, "rate must be positive, got -1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
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


WRONG = {
    bool: ["false", 1, None],
    int: ["4", 2.5, True],
    float: ["1e-6", True],
    str: [1, True, None],
}
OPTIONAL = {int | None: int, float | None: float}


@pytest.mark.parametrize("name", MIXERS)
def test_options_from_files_have_the_kind_of_their_annotation(name):
    build = MIXERS[name].__init__
    options = list(inspect.signature(build).parameters.values())[2:]  # after self, hidden_size
    check_kinds(build, {o.name: o.default for o in options}, name)
    for option in options:
        kind = OPTIONAL.get(option.annotation, option.annotation)
        for value in WRONG[kind]:
            with pytest.raises(
                TypeError, match=rf"{option.name} of {name} must be {kind.__name__}"
            ):
                check_kinds(build, {option.name: value}, name)
        if kind is float:
            check_kinds(build, {option.name: 2}, name)


WITHOUT_SIGNS = {"fsmn", "full_attention", "s4", "s5"}


@pytest.mark.parametrize("name", [n for n in MIXERS if n not in WITHOUT_SIGNS])
def test_negative_eigenvalues_are_the_default_everywhere(name):
    parameter = inspect.signature(MIXERS[name].__init__).parameters["negative_eigenvalues"]
    assert parameter.default is True


@pytest.mark.parametrize("name", [n for n in MIXERS if n not in {"fsmn", "s4", "s5"}])
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


@pytest.mark.parametrize(
    ("options", "reach"),
    [
        ({"memory": "plain", "fsmn_order": 4, "conv_kernel_size": 3}, 2 + 3),
        ({"fsmn_order": 4, "conv_kernel_size": 3}, 2 + 3 + 2 * 3),
        ({"fsmn_order": 2, "fsmn_depth": 3, "conv_kernel_size": 1}, 1 + 2 + 4),
    ],
)
def test_fsmn_looks_back_as_far_as_its_taps_reach(options, reach):
    torch.manual_seed(0)
    mixer = MIXERS["fsmn"](8, **options).double()
    x = torch.randn(1, 20, 8, dtype=torch.float64, requires_grad=True)
    y, _ = mixer(x)
    (gradient,) = torch.autograd.grad(y[0, 15].square().sum(), x)
    seen = gradient[0].abs().amax(-1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(15 - reach, 16))


@pytest.mark.parametrize("hidden_size", [32, 1024])
def test_fsmn_is_half_as_wide_inside(hidden_size):
    """So it has about half as many parameters as a mixer of full width."""
    with torch.device("meta"):
        mixer = MIXERS["fsmn"](hidden_size)
    assert mixer.block.reduce.weight.shape == (hidden_size // 2, hidden_size)
    assert sum(p.numel() for p in mixer.parameters()) > 2 * hidden_size**2
