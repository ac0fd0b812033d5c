# SPDX-License-Identifier: Apache-2.0
"""Audio files: what comes back, and what each kind of bad file is told."""

import wave

import numpy as np
import pytest
import soundfile

from seqlib.audio import (
    AudioError,
    audio_info,
    check_samples,
    read_audio,
    resample,
    write_audio,
)

RATE = 8000


def tone(hertz, rate, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_sixteen_bit_levels_come_back_exactly(tmp_path):
    levels = np.arange(-32768, 32768, 7).astype(np.float32) / 32768
    write_audio(tmp_path / "a.wav", levels, RATE)
    assert np.array_equal(read_audio(tmp_path / "a.wav", RATE), levels)
    part = read_audio(tmp_path / "a.wav", RATE, start=100, frames=50)
    assert np.array_equal(part, levels[100:150])
    assert audio_info(tmp_path / "a.wav").frames == len(levels)


def test_full_scale_does_not_wrap(tmp_path):
    write_audio(tmp_path / "a.wav", np.asarray([1.0, -1.0], np.float32), RATE)
    assert read_audio(tmp_path / "a.wav").tolist() == [32767 / 32768, -1.0]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_sample_widths(tmp_path, width):
    """The most negative value of every width is -1, and half of full scale 1/2."""
    if width == 1:
        data = bytes([0, 128, 192])
    else:
        values = [-(2 ** (8 * width - 1)), 0, 2 ** (8 * width - 2)]
        data = b"".join(v.to_bytes(width, "little", signed=True) for v in values)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, width, RATE, 0, "NONE", ""))
        file.writeframes(data)
    assert read_audio(tmp_path / "a.wav").tolist() == [-1.0, 0.0, 0.5]


@pytest.mark.parametrize(("name", "subtype"), [("a.flac", "PCM_16"), ("a.wav", "FLOAT")])
def test_other_formats_through_soundfile(tmp_path, name, subtype):
    signal = np.rint(tone(440, RATE) * 2**14).astype(np.float32) / 2**15
    soundfile.write(tmp_path / name, signal, RATE, subtype=subtype)
    assert np.array_equal(read_audio(tmp_path / name, RATE), signal)
    part = read_audio(tmp_path / name, RATE, start=5, frames=6)
    assert np.array_equal(part, signal[5:11])


def test_without_soundfile_the_message_names_it(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", tone(440, RATE), RATE)
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(AudioError, match=r"a\.flac is no WAV of whole numbers.*seqlib\[speech\]"):
        read_audio(tmp_path / "a.flac")


def test_bad_files_are_named(tmp_path):
    good = tone(440, RATE)
    write_audio(tmp_path / "good.wav", good, RATE)
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:-1000])
    (tmp_path / "text.wav").write_text("not audio")
    write_audio(tmp_path / "none.wav", good[:0], RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(9, np.nan, np.float32), RATE, subtype="FLOAT")
    with wave.open(str(tmp_path / "stereo.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(bytes(400))
    for name, message in {
        "absent.wav": "there is none",
        "cut.wav": "damaged: its header promises more",
        "text.wav": "can't be decoded",
        "none.wav": "must hold samples from 0 on, it has 0",
        "nan.wav": "must be finite",
        "stereo.wav": "must have one channel, it has 2",
    }.items():
        with pytest.raises(AudioError, match=f"{name} .*{message}"):
            read_audio(tmp_path / name, RATE)
    with pytest.raises(AudioError, match=r"good\.wav must have 16000 samples per second, it has"):
        read_audio(tmp_path / "good.wav", 16000)
    with pytest.raises(AudioError, match=r"hold 9 samples from 7995 on, it has 8000 in all"):
        read_audio(tmp_path / "good.wav", RATE, start=7995, frames=9)
    assert len(read_audio(tmp_path / "good.wav", 16000, resample=True)) == 16000


def test_writing_refuses_what_would_be_clipped(tmp_path):
    for bad in (np.asarray([1.1]), np.asarray([np.nan]), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="must be \\[T\\] within \\[-1, 1\\]"):
            write_audio(tmp_path / "a.wav", bad, RATE)


# measured on tones of 1 kHz: 2.1e-6 for 16,000 to 8,000 per second, 2.4e-6 for 95 percent; a
# tone of 6 kHz, which 8,000 per second can't hold, leaves 8.8e-7
@pytest.mark.parametrize("rates", [(16000, 8000), (8000, 16000), (95, 100), (105, 100), (3, 7)])
def test_resampling_keeps_a_tone(rates):
    source, target = rates
    x = np.sin(0.2 * np.arange(4001))
    y = resample(x, source, target)
    assert len(y) == -(-4001 * target // source)
    wanted = np.sin(0.2 * np.arange(len(y)) * source / target)
    edge = 200 * target // source
    assert np.abs(y - wanted)[edge:-edge].max() < 5e-6


def test_resampling_removes_what_the_new_rate_cannot_hold():
    assert np.abs(resample(tone(6000, 16000), 16000, 8000))[200:-200].max() < 2e-6
    assert resample(np.zeros(0, np.float32), 2, 1).shape == (0,)
    with pytest.raises(ValueError, match="rates must be positive, got 0 and 1"):
        resample(np.zeros(3), 0, 1)


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
