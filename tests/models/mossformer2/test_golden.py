# SPDX-License-Identifier: Apache-2.0
"""The network against outputs and gradients of the published one."""

import pytest
import torch

from seqlib.models import MossFormer2Config, MossFormer2Model
from seqlib.models.mossformer2.modeling import MaskHead

from .networks import GOLDEN, SIZES, arrays_of, golden_network, off, renamed

# float64, of the largest value; measured: outputs 2e-15, gradients of inputs 5e-15. Golden
# gradients of weights are float32: 6e-8.
TOLERANCE, ROUNDED = 1e-12, 1e-7

# float32: this much of what the published network differs from its float64 self
FLOAT32 = 4


@pytest.mark.parametrize("name", [n for n in SIZES if n != "net_varlen"])
def test_is_the_published_network_with_gradients(name):
    arrays, network = arrays_of(name), golden_network(name)
    x = arrays["in.x"].requires_grad_()
    sources = network(x).sources
    sources.backward(arrays["ct.y"])
    assert off(sources, arrays["out.y"]) < TOLERANCE
    assert off(x.grad, arrays["gin.x"]) < TOLERANCE
    parameters = dict(network.named_parameters())
    for n, v in renamed(arrays, "gw.").items():
        assert off(parameters[n].grad.reshape(v.shape), v.double()) < ROUNDED, n


def test_frames_and_masks_are_the_published_ones():
    arrays, network = arrays_of("net_2spk"), golden_network("net_2spk")
    encoded = network.encode(arrays["in.x"].unfold(-1, 16, 8))
    assert off(encoded.mT, arrays["out.enc"]) < TOLERANCE
    hidden = network.model(encoded).last_hidden_state
    masks = torch.stack([network.mask_head(hidden, source).mT for source in range(2)], 1)
    assert off(masks, arrays["out.mask"]) < TOLERANCE


def test_mixtures_of_unequal_lengths_are_separated_as_if_alone():
    """Whatever they are padded with."""
    arrays, network = arrays_of("net_varlen"), golden_network("net_varlen")
    lengths = [1600, 905, 1203]
    batch = torch.full((3, 1600), float("nan"), dtype=torch.float64)
    for row, length in enumerate(lengths):
        batch[row, :length] = arrays[f"in.x{row}"]
    by_lengths = network(batch, lengths=torch.tensor(lengths)).sources
    mask = torch.arange(1600) < torch.tensor(lengths)[:, None]
    assert torch.equal(by_lengths, network(batch, attention_mask=mask.int()).sources)
    for row, length in enumerate(lengths):
        assert off(by_lengths[row, :, :length], arrays[f"out.y{row}"][0]) < TOLERANCE
        assert not by_lengths[row, :, length:].any()


@pytest.mark.parametrize("name", ["net_2spk", "net_3spk_batch", "net_default_hparams"])
def test_float32_is_as_close_as_the_published_network(name):
    from safetensors import safe_open

    arrays, network = arrays_of(name), golden_network(name).float()
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        theirs = float(file.metadata()["fp32_max_abs_err"])
    with torch.no_grad():
        sources = network(arrays["in.x"].float()).sources
    assert (sources.double() - arrays["out.y"]).abs().max() < FLOAT32 * theirs


def test_the_enhancement_network_on_features():
    arrays = arrays_of("se_masknet")
    config = MossFormer2Config(
        hidden_size=24,
        inner_size=16,
        query_key_dim=32,
        group_size=24,
        num_hidden_layers=1,
        memory="plain",
        input_features=18,
        output_features=33,
    )
    weights = renamed(arrays, "w.")
    parts = {"model": MossFormer2Model(config), "mask_head": MaskHead(config)}
    for name, part in parts.items():
        shapes = {n: v.shape for n, v in part.state_dict().items()}
        own = {n.removeprefix(f"{name}."): v for n, v in weights.items() if n.startswith(name)}
        part.load_state_dict({n: v.reshape(shapes[n]) for n, v in own.items()})
        part.double().eval()
    x = arrays["in.x"].requires_grad_()
    mask = parts["mask_head"](parts["model"](x).last_hidden_state, 0)
    mask.backward(arrays["ct.y"])
    assert off(mask, arrays["out.y"]) < TOLERANCE
    assert off(x.grad, arrays["gin.x"]) < TOLERANCE
