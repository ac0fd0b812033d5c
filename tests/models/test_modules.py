# SPDX-License-Identifier: Apache-2.0
"""What transformers reads from names and modules, for every mixer there is."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import seqlib.models
from seqlib.mixers import MIXERS
from seqlib.models import SeqLMConfig, SeqLMForCausalLM

# In a class name each of these changes which cache `generate` makes, or under which argument.
SIDE_EFFECTS = ("mamba", "rwkv", "xlstm", "reformer", "xlnet", "minimax")


@pytest.fixture(params=MIXERS)
def config(request: pytest.FixtureRequest) -> SeqLMConfig:
    """One block of each mixer in the registry, with its default options."""
    return SeqLMConfig(
        vocab_size=9, hidden_size=32, intermediate_size=32, block_types=[request.param]
    )


def test_no_class_name_changes_the_cache():
    for name in seqlib.models.__all__:
        assert not any(word in name.lower() for word in SIDE_EFFECTS), name


def test_every_mixer_is_saved_and_built_without_memory(config, tmp_path):
    """transformers refuses to save other layer types, and loads into a model on "meta"."""
    with torch.device("meta"):
        empty = SeqLMForCausalLM(config)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    config.save_pretrained(tmp_path)
    assert SeqLMConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()


def test_tensors_are_parameters_or_buffers_and_real(config, tmp_path):
    """Others stay on "meta" after loading; imaginary parts are lost in `model.to(bfloat16)`."""
    SeqLMForCausalLM(config).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, module in model.named_modules():
        others = [key for key, value in vars(module).items() if torch.is_tensor(value)]
        assert not others, (name, others)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.device.type == "cpu", name
        assert not tensor.is_complex(), name
