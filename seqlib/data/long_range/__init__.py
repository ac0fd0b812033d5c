# SPDX-License-Identifier: Apache-2.0
"""Long sequences with one label each: generated, real, and the user's own."""

from .digits import digits
from .sequences import PAD_TOKEN, SPLITS, Form, SequenceData, Sequences

__all__ = ["PAD_TOKEN", "SPLITS", "Form", "SequenceData", "Sequences", "digits"]
