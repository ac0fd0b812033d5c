# SPDX-License-Identifier: Apache-2.0
"""Audio files: read with every assumption checked, written as 16-bit WAV."""

import os
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import AudioError
from .resampling import resample as change_rate

FULL_SCALE = 32768.0
Path_ = str | os.PathLike[str]


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    sampling_rate: int
    frames: int


def audio_info(path: Path_) -> AudioInfo:
    """Rate and length of a mono file, without its samples.

    Raises:
        AudioError: it can't be decoded or is not mono.
    """
    _, info = _decode(path, 0, 0)
    return info


def read_audio(
    path: Path_,
    sampling_rate: int | None = None,
    *,
    start: int = 0,
    frames: int | None = None,
    resample: bool = False,
) -> np.ndarray:
    """Samples of a mono file, [T] float32 in [-1, 1].

    WAV files of whole numbers need nothing; other formats (FLAC, floats) are read by the package
    soundfile.

    Args:
        sampling_rate: what the file must have; None takes what it has.
        start, frames: a part of it, counted at the file's own rate; the rest when None.
        resample: change the rate where it differs instead of refusing the file.

    Raises:
        AudioError: unreadable, empty, shorter than asked, not mono, another rate, NaN.
    """
    samples, info = _decode(path, start, frames)
    if not len(samples):
        raise AudioError(f"{path} must hold samples from {start} on, it has {info.frames}")
    if frames is not None and len(samples) != frames:
        raise AudioError(
            f"{path} must hold {frames} samples from {start} on, it has {info.frames} in all"
        )
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} must be finite, it holds NaN or infinity")
    if sampling_rate is not None and info.sampling_rate != sampling_rate:
        if not resample:
            raise AudioError(
                f"{path} must have {sampling_rate} samples per second, it has {info.sampling_rate}"
            )
        samples = change_rate(samples, info.sampling_rate, sampling_rate)
    return samples


def write_audio(path: Path_, samples: np.ndarray, sampling_rate: int) -> None:
    """Write [T] in [-1, 1] as 16-bit mono WAV, rounded to the nearest level.

    Raises:
        ValueError: samples of another shape, outside [-1, 1], or not finite.
    """
    if samples.ndim != 1 or not np.all(np.abs(samples) <= 1.0):
        raise ValueError(
            f"samples for {path} must be [T] within [-1, 1], got shape {samples.shape} with "
            f"largest magnitude {np.abs(samples).max(initial=0.0):.3g}"
        )
    with wave.open(os.fspath(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sampling_rate)
        file.writeframes(to_int16(samples).tobytes())


def to_int16(samples: np.ndarray) -> np.ndarray:
    """The nearest 16-bit levels, little-endian; +1 becomes the largest one."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2")


def from_int16(levels: np.ndarray) -> np.ndarray:
    """16-bit levels as float32 in [-1, 1)."""
    return levels.astype(np.float32) / np.float32(FULL_SCALE)


def _decode(path: Path_, start: int, frames: int | None) -> tuple[np.ndarray, AudioInfo]:
    if not Path(path).is_file():
        raise AudioError(f"{path} must be an audio file, there is none")
    try:
        with wave.open(os.fspath(path), "rb") as file:
            return _read_wave(path, file, start, frames)
    except (wave.Error, EOFError):
        return _read_soundfile(path, start, frames)  # another format, or damaged: it tells


def _read_wave(
    path: Path_, file: wave.Wave_read, start: int, frames: int | None
) -> tuple[np.ndarray, AudioInfo]:
    _check_mono(path, file.getnchannels())
    info = AudioInfo(file.getframerate(), file.getnframes())
    file.setpos(min(start, info.frames))
    wanted = info.frames if frames is None else frames
    data, width = file.readframes(wanted), file.getsampwidth()
    whole = min(wanted, max(info.frames - start, 0))
    if len(data) != width * whole:
        raise AudioError(f"{path} is damaged: its header promises more samples than it holds")
    if width == 2:
        return from_int16(np.frombuffer(data, "<i2")), info
    return _from_bytes(np.frombuffer(data, np.uint8).reshape(-1, width)), info


def _from_bytes(samples: np.ndarray) -> np.ndarray:
    """Whole numbers of 1, 3 or 4 bytes, [T, bytes], as float32 in [-1, 1)."""
    if samples.shape[1] == 1:  # without a sign
        return samples[:, 0].astype(np.float32) / 128 - 1
    high = np.zeros((len(samples), 4), np.uint8)
    high[:, 4 - samples.shape[1] :] = samples
    return (high.view("<i4")[:, 0] / 2.0**31).astype(np.float32)


def _read_soundfile(path: Path_, start: int, frames: int | None) -> tuple[np.ndarray, AudioInfo]:
    try:
        import soundfile
    except ImportError as error:
        raise AudioError(
            f"{path} is no WAV of whole numbers; other formats need the package soundfile: "
            "pip install 'seqlib[speech]'"
        ) from error
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            _check_mono(path, file.channels)
            info = AudioInfo(file.samplerate, file.frames)
            file.seek(min(start, info.frames))
            return file.read(-1 if frames is None else frames, dtype="float32"), info
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} can't be decoded: {error}") from error


def _check_mono(path: Path_, channels: int) -> None:
    if channels != 1:
        raise AudioError(f"{path} must have one channel, it has {channels}")
