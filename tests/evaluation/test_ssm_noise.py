# SPDX-License-Identifier: Apache-2.0
"""Noise inside trained state-space layers: what is added where, and the published form."""

import math

import numpy as np
import pytest
import torch

from seqlib.data.long_range import Form, Sequences
from seqlib.evaluation.ssm_noise import (
    NoisyRun,
    as_published,
    noise_curves,
    noise_table,
    noisy_accuracies,
    resonant_noise,
)
from seqlib.layers.ssm_init import last_spike
from seqlib.models import SeqLMConfig, SeqLMForSequenceClassification

T, H = 12, 4


def classifier(mixer="s4", layers=2, **options):
    kwargs = {"s4": {"d_state": 8, "init": "legs", **options}} if mixer == "s4" else {}
    config = SeqLMConfig(
        input_features=1,
        hidden_size=H,
        num_hidden_layers=layers,
        block_types=[mixer] * layers,
        mixer_kwargs=kwargs,
        intermediate_size=0,
        norm_type="layer",
        norm_position="post",
        pooling="mean",
        num_labels=3,
        use_cache=False,
    )
    return SeqLMForSequenceClassification(config).eval()


def heard(model, x, amplitude, seed=0):
    """What the core of each layer reads, with noise or without."""
    cores = [layer.mixer.ssm for layer in model.model.layers]
    seen = []
    with resonant_noise(model, amplitude, seed), torch.no_grad():
        hooks = [core.register_forward_pre_hook(lambda _, a: seen.append(a[0])) for core in cores]
        model(input_values=x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_every_layer_hears_the_frequency_of_the_spike(rate):
    model, x = classifier(rate=rate), torch.randn(2, T, 1)
    clean, loud = heard(model, x, 0.0), heard(model, x, 0.3)
    assert len(clean) == 2
    added = (loud[0] - clean[0]).double()
    core = model.model.layers[0].mixer.ssm
    r = added[:, :1]  # cos 0 = 1
    assert (r >= 0).all()
    assert (r < 0.3).all()
    assert len(r.unique()) == 2 * H  # one per sequence and channel
    phase = last_spike(8) * rate * core.dt().detach() * torch.arange(T).double()[:, None]
    torch.testing.assert_close(added, r * phase.cos(), rtol=0, atol=1e-6)
    assert not torch.equal(clean[1], loud[1])


def test_noise_is_drawn_from_its_seed_and_leaves_no_trace():
    model, x = classifier(), torch.randn(2, T, 1)
    before = model(input_values=x).logits
    first, again, other = (heard(model, x, 1.0, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(model(input_values=x).logits, before)


def test_layers_hear_nothing_at_amplitude_zero():
    model, x = classifier(), torch.randn(2, T, 1)
    with resonant_noise(model, 0.0):
        assert torch.equal(model(input_values=x).logits, model(input_values=x).logits)
    assert torch.equal(heard(model, x, 0.0)[0], heard(model, x, 0.0, seed=5)[0])


def test_s4d_is_louder_than_ptd_in_what_a_layer_answers():
    """One layer, no training: the noise comes out many times louder of S4D."""
    louder = {}
    for init in ("legs", "ptd_rank1"):
        torch.manual_seed(0)
        model = classifier(layers=1, init=init, d_state=32)
        ssm = model.model.layers[0].mixer.ssm
        wave = torch.cos(last_spike(32) * ssm.dt().detach() * torch.arange(600)[:, None]).float()
        with torch.no_grad():
            ssm.D.zero_()
            y, _ = ssm(wave[None], None, None, None, False)
        louder[init] = (y[:, 300:].square().mean() / ssm.C.square().mean()).sqrt().item()
    # measured 30 times, and 17 to 171 at five other seeds
    assert louder["legs"] > 10 * louder["ptd_rank1"]


def test_the_published_form_has_neither_residual_connections_nor_d():
    model, x = classifier(), torch.randn(2, T, H)
    as_published(model)
    block = model.model.layers[0]
    assert not block.mixer.ssm.D.requires_grad
    assert (block.mixer.ssm.D == 0).all()
    with torch.no_grad():
        got = block(x)
        hook = next(iter(block.mixer._forward_hooks))
        del block.mixer._forward_hooks[hook]
        want = block.mixer_norm(block.mixer(x)[0])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def sequences(n=6):
    form = Form(num_classes=3, length=T, features=1)
    rows = np.random.default_rng(0).standard_normal((n, T, 1)).astype(np.float32)
    return Sequences.of_one_length(form, rows, np.arange(n) % 3)


def test_accuracies_at_every_amplitude():
    model, data = classifier(), sequences()
    found = noisy_accuracies(model, data, [0.0, 0.5, 1e4], batch_size=4)
    assert len(found) == 3
    assert all(value in [k / 6 for k in range(7)] for value in found)
    with torch.no_grad():
        logits = model(input_values=data.stacked()[0]).logits
    clean = (logits.argmax(-1) == torch.arange(6) % 3).double().mean().item()
    assert found[0] == pytest.approx(clean)


def run(name, seed, accuracy):
    return NoisyRun(name, seed, [0.0, 0.1], accuracy, 450, 0.12, 10, 0.5, 1234, {})


def test_tables_and_curves_have_a_row_per_model():
    runs = [run("S4D", 0, [0.9, 0.5]), run("S4D", 1, [0.8, 0.6]), run("PTD", 0, [0.9, 0.9])]
    assert noise_curves(runs) == {"S4D": [[0.9, 0.5], [0.8, 0.6]], "PTD": [[0.9, 0.9]]}
    table = noise_table(runs)
    assert "0.850 (0.800 to 0.900)" in table
    assert "| 0 1 |" in table.replace("  ", " ").replace("  ", " ")
    assert NoisyRun(**runs[0].to_dict()) == runs[0]


@pytest.mark.parametrize(
    ("model", "amplitude", "message"),
    [
        (lambda: classifier(), -0.1, "amplitude must be finite and not negative, got -0.1"),
        (lambda: classifier(), math.nan, "amplitude must be finite and not negative, got nan"),
        (lambda: classifier("delta_net"), 0.1, "model must have a mixer s4 of mode 'diag'"),
        (lambda: classifier(dt_tie=False), 0.1, "one step size per channel \\(dt_tie\\)"),
    ],
)
def test_bad_arguments_are_named(model, amplitude, message):
    with pytest.raises(ValueError, match=message), resonant_noise(model(), amplitude):
        pass
