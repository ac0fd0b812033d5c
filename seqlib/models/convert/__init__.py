# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of flash-linear-attention and transformers made ours, and ours made theirs."""

from .checkpoint import convert_checkpoint
from .family import ConversionError

__all__ = ["ConversionError", "convert_checkpoint"]
