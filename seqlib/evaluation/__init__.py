# SPDX-License-Identifier: Apache-2.0
"""Scores of language models, what to compare them with, and curves."""

from .baselines import Score, baseline_scores, format_table
from .bits_per_byte import TextScore, bits_per_byte, carries_state
from .compression import xz_bits_per_byte
from .curves import plot_losses
from .ngram import ngram_bits_per_byte

__all__ = [
    "Score",
    "TextScore",
    "baseline_scores",
    "bits_per_byte",
    "carries_state",
    "format_table",
    "ngram_bits_per_byte",
    "plot_losses",
    "xz_bits_per_byte",
]
