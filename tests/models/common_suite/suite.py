# SPDX-License-Identifier: Apache-2.0
"""transformers' common suites on small models; `run.py` places this file beside the suites."""

import unittest

import torch
from transformers.models.auto import modeling_auto

from seqlib.models import (
    SeqLMConfig,
    SeqLMForCausalLM,
    SeqLMForSequenceClassification,
    SeqLMForTokenClassification,
    SeqLMModel,
)

from .test_configuration_common import ConfigTester
from .test_modeling_common import ModelTesterMixin
from .test_training_mixin import TrainingTesterMixin

# The suites look up by class name which labels a model takes.
for names, model in (
    ("MODEL_MAPPING_NAMES", SeqLMModel),
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", SeqLMForCausalLM),
    ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", SeqLMForSequenceClassification),
    ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", SeqLMForTokenClassification),
):
    getattr(modeling_auto, names)[SeqLMConfig.model_type] = model.__name__


OPTIONS = {"mamba": {"d_state": 4}, "mamba2": {"d_state": 8, "head_dim": 16}}


class SmallModel:
    """The inputs and the configuration that the suites ask for."""

    batch_size = 3
    seq_length = 7
    hidden_size = 32
    is_training = True
    causal_lm_class = SeqLMForCausalLM

    def __init__(self, parent: unittest.TestCase, block_types: list[str]):
        self.parent = parent
        self.num_hidden_layers = len(block_types)
        self.options = {
            "vocab_size": 99,
            "hidden_size": self.hidden_size,
            "block_types": block_types,
            "mixer_kwargs": {name: OPTIONS.get(name, {"num_heads": 2}) for name in block_types},
            "intermediate_size": 0 if set(block_types) <= OPTIONS.keys() else 40,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    def get_config(self) -> SeqLMConfig:
        return SeqLMConfig(**self.options)

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(3, 99, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Suite(ModelTesterMixin, TrainingTesterMixin):
    """What every kind of model is held against."""

    all_model_classes = (
        SeqLMModel,
        SeqLMForCausalLM,
        SeqLMForSequenceClassification,
        SeqLMForTokenClassification,
    )
    has_attentions = False  # mixers do not return weights
    block_types: list[str]

    def setUp(self):
        self.model_tester = SmallModel(self, self.block_types)
        self.config_tester = ConfigTester(
            self,
            config_class=SeqLMConfig,
            common_properties=["hidden_size", "num_hidden_layers"],
            **self.model_tester.options,
        )

    # Asks for a suite of `generate` that the distribution does not hold.
    test_generation_tester_mixin_inheritance = None

    def test_config(self):
        self.config_tester.run_common_tests()


class DeltaNetTest(Suite, unittest.TestCase):
    block_types = ["delta_net", "delta_net"]  # noqa: RUF012


class HybridTest(Suite, unittest.TestCase):
    block_types = ["gated_delta_net", "full_attention"]  # noqa: RUF012


class MambaTest(Suite, unittest.TestCase):
    block_types = ["mamba", "mamba2"]  # noqa: RUF012
