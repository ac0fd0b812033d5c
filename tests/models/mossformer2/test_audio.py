# SPDX-License-Identifier: Apache-2.0
"""Recordings that are read, refused, resampled."""

import wave

import numpy as np
import pytest
from scipy.signal import resample_poly

from seqlib.models.mossformer2.audio import (
    AudioError,
    check_samples,
    read_audio,
    resample,
)


def tone(length: int = 800, rate: int = 8000, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(length) / rate)).astype(np.float32)


def write(path, data: bytes, channels: int = 1, width: int = 2, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(data)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_sample_widths(tmp_path, width):
    """The most negative value of every width is -1, and half of full scale 1/2."""
    if width == 1:
        data = bytes([0, 128, 192])
    else:
        values = [-(2 ** (8 * width - 1)), 0, 2 ** (8 * width - 2)]
        data = b"".join(v.to_bytes(width, "little", signed=True) for v in values)
    write(tmp_path / "a.wav", data, width=width)
    samples, _ = read_audio(tmp_path / "a.wav")
    assert samples.tolist() == [-1.0, 0.0, 0.5]


def test_files_that_are_refused(tmp_path):
    write(tmp_path / "stereo.wav", bytes(400), channels=2)
    write(tmp_path / "empty.wav", b"")
    write(tmp_path / "cut.wav", bytes(400))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-100])
    (tmp_path / "text.wav").write_text("no sound at all, whatever the name says")
    for name, message in {
        "stereo": "must have one channel, got 2",
        "empty": "holds no samples",
        "cut": "is damaged: 200 samples are announced, 150 are there",
        "text": "is damaged or",
    }.items():
        with pytest.raises(AudioError, match=f"{name}.wav {message}"):
            read_audio(tmp_path / f"{name}.wav")
    with pytest.raises(FileNotFoundError):
        read_audio(tmp_path / "none.wav")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.ones((2, 100), np.float32), r"must have shape \(T,\), one channel, got \(2, 100\)"),
        (np.ones(23, np.float32), "must have at least 24 samples, got 23"),
        (np.zeros(100, np.float32), "is silent: every sample is 0"),
        (np.array([1.0] * 50 + [np.nan, np.inf]), "must be finite, got 2 NaN or infinite samples"),
    ],
)
def test_samples_that_are_refused(samples, message):
    with pytest.raises(AudioError, match=f"speech {message}"):
        check_samples(samples, 24, "speech")


def test_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="audio must hold floating-point samples, got int16"):
        check_samples(np.ones(100, np.int16), 24)


@pytest.mark.parametrize(
    ("rate", "new"), [(16000, 8000), (8000, 16000), (44100, 8000), (8000, 8000)]
)
def test_resampling_keeps_a_tone(rate, new):
    """Away from the ends a tone is the same tone, at the same time."""
    samples = np.stack([tone(4410, rate), -tone(4410, rate)])
    found = resample(samples, rate, new)
    expected = tone(found.shape[1], new)
    assert found.shape == (2, -(-4410 * new // rate))
    inner = slice(200, found.shape[1] - 200)
    assert np.abs(found[0, inner] - expected[inner]).max() < 1e-3
    assert np.array_equal(found[0], -found[1])


def test_resampling_removes_what_the_new_rate_lacks():
    high = resample(tone(16000, 16000, pitch=5000.0), 16000, 8000)
    assert np.abs(high[200:-200]).max() < 1e-3
    other = resample_poly(tone(16000, 16000, pitch=5000.0), 1, 2)
    assert len(high) == len(other)
