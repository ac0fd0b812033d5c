# SPDX-License-Identifier: Apache-2.0
"""Recordings in, arrays of the same length out: by a call, a pipeline, a command."""

import subprocess
import sys
import wave

import numpy as np
import pytest
import torch
from transformers import pipeline

from seqlib import cli
from seqlib.audio import AudioError, read_audio, write_audio
from seqlib.models import separate
from seqlib.models.mossformer2 import (
    MossFormer2Config,
    MossFormer2FeatureExtractor,
    MossFormer2ForSpeechEnhancement,
    MossFormer2ForSpeechSeparation,
    MossFormer2Model,
)
from seqlib.models.mossformer2.pipeline import AudioSeparationPipeline

SIZES = {"num_hidden_layers": 1, "group_size": 8, "hidden_size": 16, "inner_size": 12}
SIZES |= {"query_key_dim": 12, "fsmn_order": 4}


@pytest.fixture(scope="module")
def network() -> MossFormer2ForSpeechSeparation:
    torch.manual_seed(0)
    return MossFormer2ForSpeechSeparation(MossFormer2Config(**SIZES)).eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    network.save_pretrained(folder)
    MossFormer2FeatureExtractor.of(network.config).save_pretrained(folder)
    return folder


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, length).astype(np.float32)


def one_pass(network, samples: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(input_values=torch.from_numpy(samples)[None]).sources[0].numpy()


def test_array_in_array_out(network):
    sources = separate(noise(1003), network, 8000)
    assert sources.shape == (2, 1003)
    assert sources.dtype == np.float32
    assert np.array_equal(sources, one_pass(network, noise(1003)))


def test_a_name_and_a_file(network, folder, tmp_path):
    write_audio(tmp_path / "mix.wav", noise(1003), 8000)
    samples = read_audio(tmp_path / "mix.wav")
    assert np.array_equal(separate(tmp_path / "mix.wav", folder), one_pass(network, samples))


@pytest.mark.parametrize("length", [8000, 8001, 20011])
def test_long_recordings_keep_their_length(network, length):
    sources = separate(noise(length), network, chunk_seconds=0.5, overlap_seconds=0.1)
    assert sources.shape == (2, length)
    assert np.isfinite(sources).all()
    whole = separate(noise(length), network, chunk_seconds=None)
    assert np.array_equal(whole, one_pass(network, noise(length)))


def test_windows_that_hold_everything_are_one_pass(network):
    chunked = separate(noise(4000), network, chunk_seconds=0.5, overlap_seconds=0.1)
    assert np.array_equal(chunked, one_pass(network, noise(4000)))


@pytest.mark.parametrize("rate", [16000, 11025])
def test_another_rate_comes_back(network, rate):
    with pytest.raises(
        AudioError, match=f"must have the model's 8000 samples per second, got {rate}"
    ):
        separate(noise(3001), network, rate)
    sources = separate(noise(3001), network, rate, resample=True)
    assert sources.shape == (2, 3001)


def test_training_mode_is_left_alone(network):
    network.train()
    try:
        first, second = (separate(noise(500), network) for _ in range(2))
        assert np.array_equal(first, second)
        assert network.training
    finally:
        network.eval()


def test_enhancement_has_one_source():
    sizes = SIZES | {"memory": "plain", "input_features": 60, "output_features": 161}
    network = MossFormer2ForSpeechEnhancement(MossFormer2Config(**sizes))
    assert separate(noise(3333), network).shape == (1, 3333)
    assert separate(noise(9999), network, chunk_seconds=0.3, overlap_seconds=0.1).shape == (1, 9999)
    with pytest.raises(AudioError, match="at least 320 samples, got 319"):
        separate(noise(319), network)


@pytest.mark.parametrize(
    ("samples", "options", "error", "message"),
    [
        (noise(23), {}, AudioError, "at least 24 samples, got 23"),
        (np.zeros(100, np.float32), {}, AudioError, "is silent"),
        (np.full(100, np.nan, np.float32), {}, AudioError, "must be finite"),
        (np.ones((2, 100), np.float32), {}, AudioError, "one channel"),
        (np.ones(100, np.int16), {}, TypeError, "floating-point"),
        (noise(100), {"chunk_seconds": 0.001}, ValueError, "chunk_seconds must be at least 0.003"),
        (noise(9000), {"chunk_seconds": 1.0, "overlap_seconds": 0.6}, ValueError, "overlap must"),
    ],
)
def test_refused(network, samples, options, error, message):
    with pytest.raises(error, match=message):
        separate(samples, network, **options)


def test_other_models_are_refused(network):
    with pytest.raises(TypeError, match="must separate or enhance speech, got MossFormer2Model"):
        separate(noise(100), MossFormer2Model(network.config))


def test_pipeline(network, folder, tmp_path):
    """Files, arrays and dictionaries, alone and in batches, are what they are alone."""
    write_audio(tmp_path / "mix.wav", noise(700, 1), 8000)
    recordings = [
        {"array": noise(1003), "sampling_rate": 8000},
        str(tmp_path / "mix.wav"),
        {"raw": noise(99), "sampling_rate": 8000},
    ]
    by_name = pipeline("audio-separation", model=str(folder))
    assert isinstance(by_name, AudioSeparationPipeline)
    arrays = [noise(1003), read_audio(tmp_path / "mix.wav"), noise(99)]
    for batch_size in (1, 3):
        answers = by_name(recordings, batch_size=batch_size)
        for samples, answer in zip(arrays, answers, strict=True):
            assert answer["sampling_rate"] == 8000
            assert np.array_equal(answer["sources"], one_pass(network, samples))
    long = by_name(
        {"array": noise(9000), "sampling_rate": 8000}, chunk_seconds=0.5, overlap_seconds=0.1
    )
    expected = separate(noise(9000), network, chunk_seconds=0.5, overlap_seconds=0.1)
    assert np.array_equal(long["sources"], expected)


def test_a_saved_pipeline_loads(network, folder, tmp_path):
    pipeline("audio-separation", model=str(folder)).save_pretrained(tmp_path / "saved")
    loaded = pipeline("audio-separation", model=str(tmp_path / "saved"))
    answer = loaded(noise(500), sampling_rate=8000)
    assert np.array_equal(answer["sources"], one_pass(network, noise(500)))


def test_pipeline_refuses(folder):
    separation = pipeline("audio-separation", model=str(folder))
    with pytest.raises(AudioError, match="must be the model's, 8000, got 44100"):
        separation({"array": noise(1003), "sampling_rate": 44100})
    with pytest.raises(ValueError, match="must have the keys array"):
        separation({"samples": noise(1003)})


def test_command(network, folder, tmp_path, capsys):
    write_audio(tmp_path / "mix.wav", noise(1003), 8000)
    cli.main(["separate", str(tmp_path / "mix.wav"), str(folder), "--out", str(tmp_path / "out")])
    expected = one_pass(network, read_audio(tmp_path / "mix.wav"))
    for number in (1, 2):
        path = tmp_path / "out" / f"mix_s{number}.wav"
        assert f"mix_s{number}.wav" in capsys.readouterr().out or number == 2
        assert np.abs(read_audio(path) - expected[number - 1]).max() <= 0.5 / 32768 + 1e-7
    with wave.open(str(tmp_path / "stereo.wav"), "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(4000))
    with pytest.raises(SystemExit, match="must have one channel"):
        cli.main(["separate", str(tmp_path / "stereo.wav"), str(folder)])


LONG = """
import resource, sys
import numpy as np
from seqlib.models import separate
from seqlib.models.mossformer2.separate import load_network

network = load_network(sys.argv[1])
noise = np.random.default_rng(0).uniform(-0.5, 0.5, 600 * 8000).astype(np.float32)
options = {"chunk_seconds": 4.0, "overlap_seconds": 1.0}
peaks = []
for seconds in (8, 600):
    sources = separate(noise[: seconds * 8000], network, **options)
    assert sources.shape == (2, seconds * 8000)
    assert np.isfinite(sources).all()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_ten_minutes_take_the_memory_of_a_window(folder):
    """Beyond what two windows take there are the sources, and less than 16 MB for everything
    else: the allocators' waste and a mask over the recording.
    """
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(folder)], capture_output=True, text=True, check=True
    )
    sources = 2 * 4 * 600 * 8000
    assert int(done.stdout) < sources + 16e6
