# SPDX-License-Identifier: Apache-2.0
"""Mixtures of speech: made reproducibly, read from public corpora, cut into windows."""

from ...audio import AudioError, read_audio, write_audio
from .dataset import ListedMixtures, MixtureDataset
from .dynamic import DynamicMixtures, PromptMixtures
from .items import MixtureItem, read_list
from .load import NAMES, SpeechData, load_speech
from .windows import collate_mixtures

__all__ = [
    "NAMES",
    "AudioError",
    "DynamicMixtures",
    "ListedMixtures",
    "MixtureDataset",
    "MixtureItem",
    "PromptMixtures",
    "SpeechData",
    "collate_mixtures",
    "load_speech",
    "read_audio",
    "read_list",
    "write_audio",
]
