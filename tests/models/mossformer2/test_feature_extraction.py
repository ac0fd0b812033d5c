# SPDX-License-Identifier: Apache-2.0
"""Batches of recordings, and what is refused."""

import numpy as np
import pytest
import torch

from seqlib.audio import AudioError
from seqlib.models.mossformer2.feature_extraction import MossFormer2FeatureExtractor


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(length).astype(np.float32)


@pytest.fixture
def extractor() -> MossFormer2FeatureExtractor:
    return MossFormer2FeatureExtractor(sampling_rate=8000)


def test_batches_are_padded_on_the_right(extractor):
    batch = extractor([noise(100), noise(60)], sampling_rate=8000, return_tensors="pt")
    assert batch["input_values"].dtype == torch.float32
    assert batch["attention_mask"].sum(1).tolist() == [100, 60]
    assert torch.equal(batch["input_values"][1, :60], torch.from_numpy(noise(60)))
    assert not batch["input_values"][1, 60:].any()


def test_one_recording_is_a_batch_of_one(extractor):
    for recording in (noise(50), noise(50).astype(np.float64), noise(50).tolist()):
        batch = extractor(recording, sampling_rate=8000, return_tensors="np")
        assert batch["input_values"].shape == (1, 50)
        assert batch["input_values"].dtype == np.float32


def test_saved_and_loaded(extractor, tmp_path):
    other = MossFormer2FeatureExtractor(sampling_rate=16000, minimum_length=48)
    other.save_pretrained(tmp_path)
    loaded = MossFormer2FeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == other.to_dict()
    with pytest.raises(AudioError, match="at least 48 samples, got 40"):
        loaded(noise(40), sampling_rate=16000)


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (np.ones((2, 100), np.float32), r"raw_speech must have shape \(T,\), one channel"),
        ([noise(100), np.zeros(100)], r"raw_speech\[1\] is silent"),
        ([noise(23), noise(100)], r"raw_speech\[0\] must have at least 24 samples, got 23"),
        (np.full(100, np.nan), "raw_speech must be finite, got 100"),
        (np.zeros(0), "at least 24 samples, got 0"),
    ],
)
def test_recordings_that_are_refused(extractor, recording, message):
    with pytest.raises(AudioError, match=message):
        extractor(recording, sampling_rate=8000)


def test_rates_are_compared(extractor):
    with pytest.raises(AudioError, match="must be the model's, 8000, got 16000"):
        extractor(noise(100), sampling_rate=16000)


@pytest.mark.parametrize(
    "options", [{"feature_size": 2}, {"padding_side": "left"}], ids=lambda options: str(options)
)
def test_options_are_checked(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        MossFormer2FeatureExtractor(**options)
