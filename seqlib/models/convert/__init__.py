# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other libraries made ours, and ours made theirs."""

from .checkpoint import convert_checkpoint
from .family import ConversionError
from .mossformer2 import convert_mossformer2, export_mossformer2

__all__ = [
    "ConversionError",
    "convert_checkpoint",
    "convert_mossformer2",
    "export_mossformer2",
]
