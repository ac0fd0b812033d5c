# SPDX-License-Identifier: Apache-2.0
"""Sizes, presets and what a configuration refuses."""

import pytest
import torch
from huggingface_hub.errors import (
    StrictDataclassClassValidationError,
    StrictDataclassFieldValidationError,
)
from transformers import AutoConfig

from seqlib.models import MossFormer2Config, MossFormer2ForSpeechSeparation
from seqlib.models.mossformer2 import PRESETS, MossFormer2ForSpeechEnhancement

PARAMETERS = {
    "default": 55_735_394,
    "ss_16k": 55_735_394,
    "small": 37_755_366,
    "wsj0_3mix": 55_998_050,
    "whamr": 55_735_394,
    "se_48k": 55_262_154,
    "mini": 23_158,
    "tiny": 121_034,
    "medium": 757_266,
    "large": 5_246_498,
}


def test_every_preset_has_a_known_size():
    assert PARAMETERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_published_number_of_parameters(preset):
    config = MossFormer2Config.from_preset(preset)
    enhances = config.input_features is not None
    cls = MossFormer2ForSpeechEnhancement if enhances else MossFormer2ForSpeechSeparation
    with torch.device("meta"):
        network = cls(config)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[preset]
    assert not list(network.buffers())


def test_fields_of_a_preset_can_be_changed():
    config = MossFormer2Config.from_preset("tiny", num_speakers=3, dropout=0)
    assert (config.hidden_size, config.num_speakers, config.dropout) == (64, 3, 0)
    assert PRESETS["tiny"]["hidden_size"] == 64
    with pytest.raises(ValueError, match="tiny"):
        MossFormer2Config.from_preset("tyni")


def test_saving_and_loading_changes_nothing(tmp_path):
    config = MossFormer2Config.from_preset("se_48k", causal=True, loss_threshold=-30)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is MossFormer2Config
    assert again.to_dict() == config.to_dict() | {"_name_or_path": again.name_or_path}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate", 0),
        ("num_speakers", 0),
        ("encoder_kernel_size", 15),
        ("encoder_kernel_size", 0),
        ("hidden_size", 33),
        ("num_hidden_layers", 0),
        ("group_size", 0),
        ("query_key_dim", 1),
        ("query_key_dim", 31),
        ("hidden_expansion", 0),
        ("rotary_dim", 31),
        ("rotary_dim", -2),
        ("conv_kernel_size", 16),
        ("inner_size", 0),
        ("fsmn_order", 0),
        ("fsmn_depth", 0),
        ("memory", "deep"),
        ("mask_mode", "multiplied"),
        ("dropout", 1.0),
        ("dropout", float("nan")),
        ("initial_scale", -1),
        ("initial_scale", float("nan")),
        ("attention_normalize", "groups"),
        ("input_features", 180),
        ("output_features", 961),
    ],
)
def test_what_makes_no_network_is_refused_by_name(field, value):
    with pytest.raises(StrictDataclassClassValidationError, match=field):
        MossFormer2Config(**{field: value})


def test_an_odd_width_between_is_allowed():
    """A channel of the second convolution reads both sides of the concatenation then."""
    MossFormer2Config(inner_size=15, query_key_dim=33)


def test_unknown_names_and_wrong_types_are_refused():
    with pytest.raises(ValueError, match="hidden_size"):
        MossFormer2Config(hiden_size=64)
    with pytest.raises(StrictDataclassFieldValidationError):
        MossFormer2Config(hidden_size="64")
    with pytest.raises(ValueError, match="'seqlib_lm'"):
        MossFormer2Config(model_type="seqlib_lm")


def test_the_shortest_mixture_is_two_frames():
    assert MossFormer2Config().min_samples == 24
