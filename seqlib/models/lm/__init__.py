# SPDX-License-Identifier: Apache-2.0
"""The language model: any mixers, layer by layer."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration import SeqLMConfig
from .heads import SeqLMForSequenceClassification, SeqLMForTokenClassification
from .modeling import SeqLMForCausalLM, SeqLMModel

AutoConfig.register(SeqLMConfig.model_type, SeqLMConfig, exist_ok=True)
AutoModel.register(SeqLMConfig, SeqLMModel, exist_ok=True)
AutoModelForCausalLM.register(SeqLMConfig, SeqLMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    SeqLMConfig, SeqLMForSequenceClassification, exist_ok=True
)
AutoModelForTokenClassification.register(SeqLMConfig, SeqLMForTokenClassification, exist_ok=True)

__all__ = [
    "SeqLMConfig",
    "SeqLMForCausalLM",
    "SeqLMForSequenceClassification",
    "SeqLMForTokenClassification",
    "SeqLMModel",
]
