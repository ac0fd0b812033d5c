# SPDX-License-Identifier: Apache-2.0
"""What the network makes of levels, lengths, bad input, precision; saving and loading."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from seqlib.models import MossFormer2Config, MossFormer2ForSpeechSeparation, MossFormer2Model
from seqlib.models.export import save_pretrained_with_code
from seqlib.models.mossformer2 import MossFormer2ForSpeechEnhancement
from seqlib.models.mossformer2.modeling import PositionCode

from .networks import off, random_network

each_kind = pytest.mark.parametrize(
    "changes",
    [{}, {"memory": "plain"}, {"causal": True}, {"fsmn_depth": 3}, {"mask_mode": "direct"}],
    ids=str,
)


@pytest.fixture
def mixtures():
    return torch.randn(3, 61, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@each_kind
def test_padding_changes_nothing(mixtures, changes):
    network = random_network(**changes)
    lengths = torch.tensor([23, 61, 6])
    sources = network(mixtures, lengths=lengths).sources
    for row, length in enumerate(lengths):
        alone = network(mixtures[row : row + 1, :length]).sources
        torch.testing.assert_close(sources[row : row + 1, :, :length], alone, rtol=0, atol=1e-12)
        assert not sources[row, :, length:].any()


def test_all_of_one_length_are_cut_alike(mixtures):
    network = random_network()
    got = network(mixtures, lengths=torch.tensor([40] * 3)).sources
    torch.testing.assert_close(got[..., :40], network(mixtures[:, :40]).sources, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [6, 7, 8, 9, 61])
def test_sources_are_as_long_as_the_mixture(samples):
    network = random_network()
    sources = network(torch.randn(1, samples, dtype=torch.float64)).sources
    assert sources.shape == (1, 2, samples)
    assert not sources[..., samples - (samples - 4) % 2 :].any()  # the last frame ends before


def test_sources_scale_with_the_mixture(mixtures):
    network = random_network()
    assert off(network(10 * mixtures).sources, 10 * network(mixtures).sources) < 1e-6


def test_silence_stays_silence():
    for changes in ({}, {"causal": True}):
        assert not random_network(**changes)(torch.zeros(2, 50).double()).sources.any()


def test_not_a_number_passes_through(mixtures):
    mixtures[1, 30] = float("nan")
    sources = random_network()(mixtures).sources
    assert sources[1].isnan().any()
    assert sources[[0, 2]].isfinite().all()


@pytest.mark.parametrize("normalize", ["frames", "group"])
def test_the_future_changes_nothing_of_a_causal_network(mixtures, normalize):
    network = random_network(causal=True, attention_normalize=normalize)
    before = network(mixtures).sources
    mixtures[:, 40:] *= -1e3
    # sample 40 is read by the frames from sample 38 on, which write from there on
    assert torch.equal(network(mixtures).sources[..., :38], before[..., :38])


@pytest.mark.parametrize("normalize", ["frames", "group"])
@pytest.mark.parametrize("sizes", [[1] * 30, [1, 7, 8, 2, 1, 11]])
def test_a_causal_network_goes_on_from_its_state(normalize, sizes):
    network = random_network(causal=True, attention_normalize=normalize).model
    frames = torch.randn(2, 30, 12, dtype=torch.float64)
    state, parts = None, []
    for piece in frames.split(sizes, 1):
        outputs = network(piece, state=state, return_state=True)
        state = outputs.state
        parts.append(outputs.last_hidden_state)
    want = network(frames).last_hidden_state
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=0, atol=1e-11)
    assert (state["position"] == 30).all()


def test_only_causal_networks_have_states():
    with pytest.raises(ValueError, match="causal=False"):
        random_network().model(torch.randn(1, 9, 12).double(), return_state=True)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((60,), {}, r"input_values must have shape \(B, T\)"),
        ((2, 60, 1), {}, r"input_values must have shape \(B, T\)"),
        ((2, 5), {}, "input_values must have at least 6 samples"),
        ((2, 60), {"labels": torch.zeros(2, 3, 60)}, r"labels must have shape .*\(2, 2, 60\)"),
        ((2, 60), {"labels": torch.zeros(2, 2, 59)}, r"labels must have shape .*\(2, 2, 60\)"),
        ((2, 60), {"lengths": torch.tensor([60, 61])}, "lengths must be from 6"),
        ((2, 60), {"lengths": torch.tensor([60, 5])}, "lengths must be from 6"),
        ((2, 60), {"lengths": torch.tensor([60])}, r"lengths must be whole numbers of shape"),
        ((2, 60), {"lengths": torch.tensor([60.0, 9.0])}, "lengths must be whole numbers"),
        ((2, 60), {"attention_mask": torch.ones(2, 59)}, "attention_mask must have shape"),
        ((2, 60), {"attention_mask": torch.eye(2, 60)}, "zeros on the right"),
        (
            (2, 60),
            {"attention_mask": torch.ones(2, 60), "lengths": torch.tensor([60, 60])},
            "one of them",
        ),
    ],
)
def test_bad_input_has_a_name(shape, given, said):
    with pytest.raises(ValueError, match=said):
        random_network()(torch.zeros(shape, dtype=torch.float64), **given)


def test_features_of_another_width_have_a_name():
    with pytest.raises(ValueError, match=r"input_features must have shape \(B, S, 12\)"):
        random_network().model(torch.zeros(1, 9, 11).double())
    with pytest.raises(ValueError, match="input_features must be None"):
        MossFormer2ForSpeechSeparation(MossFormer2Config.from_preset("se_48k"))


def test_outputs_follow_the_library(mixtures):
    network = random_network()
    outputs = network(mixtures, labels=torch.randn(3, 2, 61).double(), output_hidden_states=True)
    assert outputs.loss.ndim == 0
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(3, 29, 12)] * 3
    assert set(network(mixtures)) == {"sources"}
    (sources,) = network(mixtures, return_dict=False)
    assert torch.equal(sources, outputs.sources)


def test_the_configuration_can_ask_for_hidden_states_and_tuples(mixtures):
    network = random_network()
    network.config.output_hidden_states = True
    assert len(network(mixtures).hidden_states) == 3
    network.config.return_dict = False
    sources, hidden_states = network(mixtures)
    assert sources.shape == (3, 2, 61)
    assert len(hidden_states) == 3


def test_late_positions_are_told_apart():
    """Ten minutes in: measured 3e-8, where float32 angles are off by 2e-2."""
    x, position = torch.zeros(1, 50, 64), 600_000 + torch.arange(50)
    code = PositionCode(1.0)
    want = code.double()(x.double(), position)
    got = code.float()(x, position)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-7)


def test_loading_what_was_saved_changes_nothing(mixtures, tmp_path):
    network = random_network()
    network.save_pretrained(tmp_path)
    again, report = MossFormer2ForSpeechSeparation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    assert again.dtype == torch.float64
    for got, want in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(got, want)
    # BLAS adds in another order where a file puts a matrix elsewhere: measured 2e-16
    assert off(again(mixtures).sources, network(mixtures).sources) < 1e-14
    assert type(AutoModel.from_pretrained(tmp_path)) is MossFormer2ForSpeechSeparation
    model = MossFormer2Model.from_pretrained(tmp_path)
    frames = network.encode(mixtures.unfold(-1, 4, 2))
    want = network.model(frames).last_hidden_state
    assert off(model(frames).last_hidden_state, want) < 1e-14


@pytest.mark.parametrize("memory", ["dilated", "plain"])
def test_every_parameter_missing_from_a_checkpoint_is_initialised(memory, tmp_path):
    """Loading starts from uninitialised memory, so each has to be rebuilt by name."""
    torch.manual_seed(0)
    config = MossFormer2Config.from_preset("tiny", memory=memory)
    fresh = MossFormer2ForSpeechSeparation(config)
    fresh.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {"encoder.weight": load_file(path)["encoder.weight"]}
    save_file(kept, path, metadata={"format": "pt"})
    again, report = MossFormer2ForSpeechSeparation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert set(report["missing_keys"]) == dict(fresh.named_parameters()).keys() - kept.keys()
    for (name, got), want in zip(again.named_parameters(), fresh.parameters(), strict=True):
        if want.numel() > 1 and want.std() > 0:
            assert got.std().item() == pytest.approx(want.std().item(), rel=0.35), name
            assert got.abs().max() < 1.5 * want.abs().max(), name
        else:
            assert torch.equal(got, want), name


def test_fresh_values_are_those_of_published_networks():
    network = MossFormer2ForSpeechSeparation(MossFormer2Config.from_preset("tiny"))
    bounds = {
        "encoder.weight": 16,
        "model.input_projection.weight": 64,
        "model.layers.0.attention.to_hidden.taps": 17,
        "model.layers.0.attention.to_hidden.linear.bias": 64,
        "model.layers.1.memory.gated.memory.convolutions.0.taps": 39,
        "model.layers.1.memory.gated.memory.convolutions.1.taps": 78,
    }
    parameters = dict(network.named_parameters())
    for name, fan_in in bounds.items():
        assert 0.9 < parameters[name].abs().max() * fan_in**0.5 <= 1, name
    gamma = parameters["model.layers.0.attention.gamma"]
    assert gamma.std().item() == pytest.approx(0.02, rel=0.3)


def test_branches_and_positions_start_at_the_initial_scale(tmp_path):
    drawn = []
    for scale in (1, 0.25):
        torch.manual_seed(0)
        config = MossFormer2Config.from_preset("tiny", initial_scale=scale)
        drawn.append(MossFormer2ForSpeechSeparation(config))
    drawn[1].save_pretrained(tmp_path)
    scaled = (".attention.to_out.linear.", ".memory.expand.", ".position_code.")
    loaded = MossFormer2ForSpeechSeparation.from_pretrained(tmp_path)
    for (name, one), fresh, read in zip(
        drawn[0].named_parameters(), drawn[1].parameters(), loaded.parameters(), strict=True
    ):
        factor = 0.25 if any(part in name for part in scaled) else 1
        assert all(torch.equal(got, factor * one) for got in (fresh, read)), name


def test_optimizers_are_told_what_not_to_decay():
    network = random_network()
    undecayed = {
        n
        for n, p in network.named_parameters()
        if getattr(p, "_optim", {}).get("weight_decay") == 0
    }
    assert "model.layers.0.attention.to_qk.norm.gain" in undecayed
    assert "model.layers.0.attention.to_qk.linear.weight" not in undecayed


def test_bfloat16_stays_close(tmp_path):
    """Positions and norms are computed in float32; measured: 2.0 %."""
    torch.manual_seed(0)
    network = random_network(hidden_size=32, query_key_dim=32).float()
    mixtures = torch.randn(2, 1300)
    want = network(mixtures).sources
    network.save_pretrained(tmp_path)
    half = MossFormer2ForSpeechSeparation.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for other in (half, network.bfloat16()):
        got = other(mixtures).sources
        assert got.dtype == torch.bfloat16
        assert (got.float() - want).norm() / want.norm() < 0.05


def test_auto_classes_build_what_the_configuration_is_for():
    with torch.device("meta"):
        assert type(AutoModel.from_config(MossFormer2Config.from_preset("tiny"))) is (
            MossFormer2ForSpeechSeparation
        )
        assert type(AutoModel.from_config(MossFormer2Config.from_preset("se_48k"))) is (
            MossFormer2ForSpeechEnhancement
        )


def test_a_damaged_file_has_a_name(tmp_path):
    random_network().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="damaged"):
        MossFormer2ForSpeechSeparation.from_pretrained(tmp_path)


def test_checkpoints_with_code_hold_that_of_the_network(tmp_path):
    """Loading one where seqlib is missing is tested with the language models."""
    network = random_network()
    save_pretrained_with_code(network, tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    entry = "modeling_mossformer2"
    assert saved["auto_map"]["AutoModel"] == f"{entry}.MossFormer2ForSpeechSeparation"
    assert (tmp_path / "seqlib_kernels_fsmn_memory_op.py").is_file()


def test_the_configuration_on_disk_is_readable(tmp_path):
    random_network().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "mossformer2"
    assert saved["architectures"] == ["MossFormer2ForSpeechSeparation"]
