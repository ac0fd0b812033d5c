# SPDX-License-Identifier: Apache-2.0
"""MossFormer2: speech separation and enhancement by masks on short frames."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from .configuration import MossFormer2Config
from .enhancement import MossFormer2ForSpeechEnhancement
from .feature_extraction import MossFormer2FeatureExtractor
from .modeling import (
    MossFormer2ForSpeechSeparation,
    MossFormer2Model,
    MossFormer2Output,
    SeparationOutput,
)
from .presets import PRESETS
from .streaming import Streamer

AutoConfig.register(MossFormer2Config.model_type, MossFormer2Config, exist_ok=True)
# which of them a checkpoint is for stands in its `architectures`
AutoModel.register(
    MossFormer2Config,
    (MossFormer2Model, MossFormer2ForSpeechSeparation, MossFormer2ForSpeechEnhancement),
    exist_ok=True,
)
AutoFeatureExtractor.register(MossFormer2Config, MossFormer2FeatureExtractor, exist_ok=True)

__all__ = [
    "PRESETS",
    "MossFormer2Config",
    "MossFormer2FeatureExtractor",
    "MossFormer2ForSpeechEnhancement",
    "MossFormer2ForSpeechSeparation",
    "MossFormer2Model",
    "MossFormer2Output",
    "SeparationOutput",
    "Streamer",
]
