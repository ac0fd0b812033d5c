# SPDX-License-Identifier: Apache-2.0
"""The two blocks of MossFormer2: joint attention, and a gated memory behind a bottleneck."""

from .attention import JointAttentionBlock
from .gated import GatedFsmn, GatedFsmnBlock
from .memory import DilatedMemory, PlainMemory
from .norms import ScaleNorm, SequenceNorm
from .projection import ConvolvedProjection

__all__ = [
    "ConvolvedProjection",
    "DilatedMemory",
    "GatedFsmn",
    "GatedFsmnBlock",
    "JointAttentionBlock",
    "PlainMemory",
    "ScaleNorm",
    "SequenceNorm",
]
