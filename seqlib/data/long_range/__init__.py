# SPDX-License-Identifier: Apache-2.0
"""Long sequences with one label each: generated, real, and the user's own."""

from .digits import digits
from .listops import ListOps
from .load import NAMES, load_sequences
from .pathfinder import Pathfinder
from .sequences import PAD_TOKEN, SPLITS, Form, SequenceData, Sequences
from .user_rows import Columns

__all__ = [
    "NAMES",
    "PAD_TOKEN",
    "SPLITS",
    "Columns",
    "Form",
    "ListOps",
    "Pathfinder",
    "SequenceData",
    "Sequences",
    "digits",
    "load_sequences",
]
