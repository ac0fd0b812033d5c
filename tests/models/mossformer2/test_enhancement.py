# SPDX-License-Identifier: Apache-2.0
"""Enhancement by masks on spectra."""

import pytest
import torch

from seqlib.models.mossformer2 import MossFormer2Config, MossFormer2ForSpeechEnhancement
from seqlib.models.mossformer2.enhancement import mask_loss
from seqlib.models.mossformer2.spectrum import to_spectrum

RATE, FREQUENCIES = 8000, 161  # windows of 320 samples every 64


def make_network(**changes) -> MossFormer2ForSpeechEnhancement:
    torch.manual_seed(0)
    sizes = {"sample_rate": RATE, "input_features": 60, "output_features": FREQUENCIES}
    sizes |= {"num_hidden_layers": 2, "group_size": 8, "memory": "plain", "hidden_size": 16}
    sizes |= {"inner_size": 12, "query_key_dim": 12, "fsmn_order": 4}
    return MossFormer2ForSpeechEnhancement(MossFormer2Config(**(sizes | changes))).double().eval()


def speech(batch: int = 2, length: int = 3000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(batch, length, dtype=torch.float64, generator=generator)


@torch.no_grad()
def test_rows_are_what_they_are_alone():
    network, x = make_network(), speech(3)
    lengths = torch.tensor([3000, 1111, 320])
    together = network(input_values=x, lengths=lengths).sources
    assert together.shape == (3, 1, 3000)
    mask = torch.arange(3000) < lengths[:, None]
    assert torch.equal(together, network(input_values=x, attention_mask=mask).sources)
    for row, length in enumerate(lengths.tolist()):
        alone = network(input_values=x[row : row + 1, :length]).sources
        torch.testing.assert_close(together[row : row + 1, :, :length], alone)
        assert not together[row, :, length:].any()


@torch.no_grad()
@pytest.mark.parametrize("length", [320, 321, 3000, 3008])
def test_a_mask_of_ones_passes_everything(length, monkeypatch):
    """To the last sample, whatever fits into windows."""
    network = make_network()
    monkeypatch.setattr(
        network.mask_head, "forward", lambda h, source: h.new_ones(*h.shape[:2], FREQUENCIES)
    )
    x = speech(2, length)
    torch.testing.assert_close(network(input_values=x).sources[:, 0], x)


def test_the_loss_is_that_of_the_phase_sensitive_mask():
    """Written with real numbers, frequency by frequency."""
    noisy, clean = (to_spectrum(speech(1, 700), 161)[0], to_spectrum(speech(2, 700), 161)[1])
    mask = torch.rand(len(noisy), 161, dtype=torch.float64)
    total = 0.0
    for m, x, y in zip(mask, clean, noisy, strict=True):
        cosine = (x.real * y.real + x.imag * y.imag) / (x.abs() * y.abs())
        target = (x.abs() ** 2 / (y.abs() ** 2 + 1e-6) * cosine).clip(0, 1)
        total += (0.5 * (m - target) ** 2 * y.abs() / (y.abs().max() + 1e-6)).sum()
    torch.testing.assert_close(mask_loss(mask, clean, noisy), total / len(mask))


def test_training_reaches_every_parameter_but_the_other_source():
    network = make_network().train()
    loss = network(input_values=speech(), labels=speech()[:, None] / 2).loss
    loss.backward()
    assert loss.item() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not network.mask_head.sources.weight.grad[16:].any()
    assert network.mask_head.sources.weight.grad[:16].any()


def test_padding_does_not_count_in_the_loss():
    network, x = make_network(), speech()
    lengths = torch.tensor([3000, 999])
    labels = (x / 2)[:, None]
    together = network(input_values=x, lengths=lengths, labels=labels).loss
    frames = [43, 12]
    alone = [
        network(input_values=x[i : i + 1, :n], labels=labels[i : i + 1, :, :n]).loss * frames[i]
        for i, n in enumerate(lengths.tolist())
    ]
    torch.testing.assert_close(together, sum(alone) / sum(frames))


def test_saved_and_loaded(tmp_path):
    network = make_network().float()
    network.save_pretrained(tmp_path)
    loaded = MossFormer2ForSpeechEnhancement.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        first, second = (n(input_values=speech().float()).sources for n in (network, loaded))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_features": None, "output_features": None}, "input_features and output_features"),
        ({"input_features": 61}, "input_features must be a multiple of 3.*61"),
        ({"output_features": 3}, "output_features must be at least 4"),
    ],
)
def test_sizes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        make_network(**changes)


def test_inputs_are_checked():
    network = make_network()
    with pytest.raises(ValueError, match="must have at least 320 samples, one window, got 319"):
        network(input_values=speech(1, 319))
    with pytest.raises(ValueError, match=r"input_values must have shape \(B, T\)"):
        network(input_values=speech()[:, None])
    with pytest.raises(ValueError, match=r"labels must have shape \(B, 1, T\) = \(2, 1, 3000\)"):
        network(input_values=speech(), labels=speech())
