# SPDX-License-Identifier: Apache-2.0
"""The configuration: derived fields, round trips, and everything it refuses."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from seqlib.models import SeqLMConfig


def test_derived_fields():
    config = SeqLMConfig(block_types=["delta_net", "full_attention", "delta_product"])
    assert config.num_hidden_layers == 3
    assert config.layer_types == ["linear_attention", "full_attention", "linear_attention"]
    assert config.intermediate_size == 2816  # for the default hidden_size of 1024
    config = SeqLMConfig(num_hidden_layers=2)
    assert config.block_types == ["delta_net", "delta_net"]
    assert config.mixer_kwargs == {}
    assert SeqLMConfig().num_hidden_layers == 24


def test_blocks_without_an_mlp(make_model, ids):
    model = make_model("delta_net", intermediate_size=0)
    assert {n.split(".")[3] for n, _ in model.named_parameters() if ".layers." in n} == {
        "mixer", "mixer_norm",
    }  # fmt: skip
    block = model.model.layers[0]
    x = model.get_input_embeddings()(ids)
    torch.testing.assert_close(block(x), x + block.mixer(block.mixer_norm(x))[0])


def test_round_trip_through_a_folder(make_config, tmp_path):
    config = make_config(eos_token_id=[1, 2], num_labels=5, rms_norm_eps=1, dtype="bfloat16")
    config.save_pretrained(tmp_path)
    for again in (SeqLMConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(again) is SeqLMConfig
        assert again.to_diff_dict() == config.to_diff_dict()
        assert again.num_labels == 5
    assert "layer_types" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_types": ["delta_nett"]}, "no mixer 'delta_nett'; did you mean 'delta_net'"),
        ({"hiden_size": 32}, "no configuration field 'hiden_size'; did you mean 'hidden_size'"),
        ({"temperature": 0.5}, "temperature belongs in model.generation_config"),
        (
            {"block_types": ["delta_net"], "num_hidden_layers": 3},
            "num_hidden_layers=3 mixers, got 1",
        ),
        ({"mixer_kwargs": {"delta": {}}}, "no mixer 'delta'; did you mean 'delta_net'"),
        (
            {"mixer_kwargs": {"delta_net": {"num_head": 2}}},
            "no option of delta_net 'num_head'; did you mean 'num_heads'",
        ),
        ({"mixer_kwargs": {"delta_net": {"num_heads": 7}}}, "the key size of a head must be"),
        (
            {"mixer_kwargs": {"delta_net": {"negative_eigenvalues": "false"}}},
            "negative_eigenvalues of delta_net must be bool, got 'false'",
        ),
        ({"intermediate_size": -1}, "intermediate_size must be positive, or 0 for blocks without"),
        ({"vocab_size": 0}, "vocab_size must be positive, got 0"),
        ({"num_hidden_layers": 0, "block_types": []}, "num_hidden_layers must be positive, got 0"),
        ({"vocab_size": 9, "pad_token_id": 9}, "below vocab_size=9 and not negative, got 9"),
        ({"norm_type": "group"}, "no norm_type 'group'; known: batch, layer, rms"),
        ({"norm_position": "Post"}, "no norm_position 'Post'; did you mean 'post'"),
        ({"pooling": "max"}, "no pooling 'max'"),
        ({"input_features": 0}, "input_features must be positive, got 0"),
        (
            {"norm_type": "batch", "batch_norm_momentum": 0},
            "momentum must be above 0 and at most 1, got 0",
        ),
        (
            {
                "block_types": ["s5"],
                "mixer_kwargs": {"s5": {"bidirectional": True}},
                "use_cache": True,
            },
            "use_cache must be False with a bidirectional mixer",
        ),
        ({"pad_token_id": -1}, "below vocab_size=32000 and not negative, got -1"),
        ({"model_type": "llama"}, "a 'llama' model, not of 'seqlib_lm'"),
    ],
)
def test_values_that_can_not_be(changes, message):
    with pytest.raises((ValueError, StrictDataclassError)) as error:
        SeqLMConfig(hidden_size=32, **changes)
    assert message in chain(error.value)


def chain(error: BaseException | None) -> str:
    """The messages of an error and of what caused it."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return "\n".join(texts)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "32"},
        {"block_types": "delta_net"},
        {"tie_word_embeddings": 1},
        {"mixer_kwargs": []},
    ],
)
def test_types_are_checked_at_construction_and_assignment(changes):
    with pytest.raises(StrictDataclassError):
        SeqLMConfig(**changes)
    config = SeqLMConfig()
    for name, value in changes.items():
        with pytest.raises(StrictDataclassError):
            setattr(config, name, value)


def test_a_bad_change_after_construction_is_found_when_saving(make_config, tmp_path):
    config = make_config()
    config.block_types = ["delta_net", "nothing", "delta_net"]
    with pytest.raises((ValueError, StrictDataclassError)) as error:
        config.save_pretrained(tmp_path)
    assert "no mixer 'nothing'" in chain(error.value)


def test_names_that_transformers_passes_itself_are_accepted():
    names = {"attn_implementation": "sdpa", "name_or_path": "x", "output_attentions": False}
    config = SeqLMConfig(**names, num_labels=3, problem_type="regression", id2label=None)
    assert config.num_labels == 3
