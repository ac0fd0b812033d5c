# SPDX-License-Identifier: Apache-2.0
"""Recordings: files, rates, checks. Models and data use them, and they know of neither."""

from .checks import check_samples
from .errors import AudioError
from .files import audio_info, from_int16, read_audio, to_int16, write_audio
from .resampling import resample

__all__ = [
    "AudioError",
    "audio_info",
    "check_samples",
    "from_int16",
    "read_audio",
    "resample",
    "to_int16",
    "write_audio",
]
