# SPDX-License-Identifier: Apache-2.0
"""Models in the transformers idiom, registered with its Auto classes on import."""

from .cache import StateLayer, build_cache
from .lm import (
    SeqLMConfig,
    SeqLMForCausalLM,
    SeqLMForSequenceClassification,
    SeqLMForTokenClassification,
    SeqLMModel,
)
from .mossformer2 import (
    MossFormer2Config,
    MossFormer2FeatureExtractor,
    MossFormer2ForSpeechEnhancement,
    MossFormer2ForSpeechSeparation,
    MossFormer2Model,
)
from .mossformer2.separate import separate

__all__ = [
    "MossFormer2Config",
    "MossFormer2FeatureExtractor",
    "MossFormer2ForSpeechEnhancement",
    "MossFormer2ForSpeechSeparation",
    "MossFormer2Model",
    "SeqLMConfig",
    "SeqLMForCausalLM",
    "SeqLMForSequenceClassification",
    "SeqLMForTokenClassification",
    "SeqLMModel",
    "StateLayer",
    "build_cache",
    "separate",
]
