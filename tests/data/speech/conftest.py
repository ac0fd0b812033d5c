# SPDX-License-Identifier: Apache-2.0
"""Generated voices and corpora: nothing here was recorded."""

import numpy as np
import pytest

from seqlib.data.speech import prompts_2mix, write_audio
from seqlib.data.speech.prompts import VOICES

RATE = 8000


def speech(seed, seconds, rate=RATE):
    """Bursts of noise with pauses at both ends, 16-bit-safe."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    wave = rng.standard_normal(len(t)) * (0.2 + np.abs(np.sin(2 * np.pi * 3 * t)))
    wave[: rate // 5] = wave[-rate // 5 :] = 0.0
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="session")
def prompt_root(tmp_path_factory):
    """What the seven packages unpack to, with 60 short prompts for each voice."""
    root = tmp_path_factory.mktemp("packages")
    for v, voice in enumerate(VOICES):
        folder = root / voice.folder
        (folder / "silence").mkdir(parents=True)
        rate = 16000 if voice.name == "nsh" else RATE
        for i in range(60):
            write_audio(folder / f"p{i}.wav", speech(100 * v + i, 1.9, rate), rate)
        if voice.name != "nsh":
            write_audio(folder / "silence" / "1.wav", np.zeros(rate, np.float32), rate)
            write_audio(folder / "beep.wav", speech(0, 1.0, rate), rate)
        write_audio(folder / "is.wav", np.zeros(0, np.float32), rate)
        write_audio(folder / "short.wav", speech(1, 0.55, rate), rate)
        write_audio(folder / "thanks.wav", speech(2, 8.0 if v == 5 else 1.5, rate), rate)
    return root


@pytest.fixture
def small_sets(monkeypatch):
    """Fixed sets of four mixtures."""
    small = {
        name: prompts_2mix.FixedSet(s.folder, s.voices, s.split, 4)
        for name, s in prompts_2mix.FIXED.items()
    }
    monkeypatch.setattr(prompts_2mix, "FIXED", small)
    monkeypatch.setattr("seqlib.data.speech.fixed_sets.FIXED", small)


def write_mixture(base, name, folders, *, lengths=None, seed=0, rate=RATE):
    """Sources, maybe noise, and their sum: `folders` is (mixture, *parts)."""
    parts = []
    for i, folder in enumerate(folders[1:]):
        (base / folder).mkdir(parents=True, exist_ok=True)
        parts.append(0.4 * speech(seed + i, 1.5, rate))
        write_audio(base / folder / name, parts[-1], rate)
    (base / folders[0]).mkdir(parents=True, exist_ok=True)
    write_audio(base / folders[0] / name, sum(parts), rate)
