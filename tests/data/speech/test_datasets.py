# SPDX-License-Identifier: Apache-2.0
"""Training examples: windows, seeds, workers, bad files, batches."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from seqlib.data.speech import (
    AudioError,
    DynamicMixtures,
    ListedMixtures,
    MixtureItem,
    PromptMixtures,
    collate_mixtures,
    load_speech,
    write_audio,
)
from seqlib.data.speech.layouts import recordings_by_speaker, wsj0_mix
from seqlib.data.speech.mixing import Mixture
from seqlib.data.speech.prompt_store import open_prompts
from seqlib.data.speech.windows import cut_window

from .conftest import RATE, speech, write_mixture


@pytest.fixture(scope="module")
def store(prompt_root, tmp_path_factory):
    return open_prompts(tmp_path_factory.mktemp("cache"), path=prompt_root)


@pytest.fixture
def items(tmp_path):
    base = tmp_path / "wav8k" / "min" / "tr"
    for i in range(6):
        write_mixture(base, f"{i}.wav", ("mix", "s1", "s2"), seed=10 * i)
    return wsj0_mix(tmp_path, "train")


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in ("input_values", "labels"))


def listed(items, **options):
    return ListedMixtures(items, num_speakers=2, sampling_rate=RATE, **options)


def dynamic(tmp_path, **options):
    for s in range(3):
        for i in range(2 + s):
            (tmp_path / f"speaker{s}").mkdir(exist_ok=True)
            rate = 16000 if i else RATE
            file = tmp_path / f"speaker{s}" / f"{i}.wav"
            write_audio(file, speech(10 * s + i, 1.0 + 0.2 * i, rate), rate)
    recordings = recordings_by_speaker(tmp_path)
    return DynamicMixtures(recordings, sampling_rate=RATE, size=20, seconds=0.5, **options)


@pytest.mark.parametrize("kind", ["prompts", "listed", "dynamic"])
def test_an_example_follows_from_seed_epoch_and_index(kind, store, items, tmp_path):
    def make(seed=0):
        if kind == "prompts":
            return PromptMixtures(store, seconds=1.0, size=8, seed=seed)
        if kind == "listed":
            return listed(items, seconds=0.5, speed_perturbation=True, seed=seed)
        return dynamic(tmp_path / "raw", seed=seed)

    (tmp_path / "raw").mkdir()
    data, again, other = make(), make(), make(seed=1)
    last = again[5]  # asked for in another order
    assert same(data[0], again[0])
    assert same(data[5], last)
    assert not same(data[5], other[5])
    first = data[0]
    data.set_epoch(1)
    assert not same(data[0], first)
    again.set_epoch(1)  # as after resuming
    assert same(data[0], again[0])
    assert torch.allclose(first["labels"].sum(0), first["input_values"], atol=2e-4)


def test_prompts_at_other_speeds_have_other_lengths(store):
    """Whole mixtures: both voices change, each on its own, and the sources still add up."""
    plain = PromptMixtures(store, seconds=None, size=30)
    changed = PromptMixtures(store, seconds=None, size=30, speed_perturbation=True)
    ratios = []
    for i in range(30):
        before, after = plain[i], changed[i]
        ratios.append(len(after["input_values"]) / len(before["input_values"]))
        total = after["labels"].sum(0)
        assert torch.allclose(total, after["input_values"], atol=1e-6)
    assert 1 / 1.2 - 1e-3 < min(ratios) < 0.95
    assert 1.05 < max(ratios) < 1 / 0.8 + 1e-3
    assert same(changed[3], changed[3])


def test_workers_give_what_one_process_gives(store):
    data = PromptMixtures(store, seconds=0.5, size=8)
    data.set_epoch(3)
    alone = collate_mixtures([data[i] for i in range(8)])
    loader = DataLoader(data, batch_size=4, num_workers=2, collate_fn=collate_mixtures)
    batches = list(loader)
    assert torch.equal(torch.cat([b["labels"] for b in batches]), alone["labels"])
    examples = [data[i]["labels"] for i in range(8)]
    assert all(not torch.equal(a, b) for a, b in pairwise(examples))


def test_windows_avoid_places_where_a_source_is_quiet():
    sources = np.zeros((2, 10000), np.float32)
    sources[0] = 0.1
    sources[1, :1500] = 0.1
    signals = Mixture(sources.sum(0), sources)
    found = [
        bool(cut_window(signals, 1000, RATE, np.random.default_rng(i)).sources[1].any())
        for i in range(200)
    ]
    # one draw meets the sound with probability 0.167, one of ten with 0.84
    assert 0.7 < np.mean(found) < 0.95
    short = cut_window(signals, 20000, RATE, np.random.default_rng(0))
    assert short.mixture.shape == (10000,)


def test_a_bad_file_in_training_is_replaced_reported_and_counted(items, caplog):
    items[2].sources[0].write_bytes(b"RIFF")
    write_audio(items[4].sources[1], np.zeros(12000, np.float32), RATE)
    data = listed(items, seconds=0.5)
    with caplog.at_level("WARNING"):
        examples = [data[i] for i in range(6)]
        data[2]
    assert len(examples) == 6
    assert data.bad_files == 2
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 2
    assert "s1/2.wav can't be decoded" in messages[0]
    assert "s2/4.wav must hold sound, it is silent" in messages[1]


def test_workers_count_bad_files_in_the_main_process(items):
    items[2].mixture.unlink()
    data = listed(items, seconds=0.5)
    list(DataLoader(data, batch_size=2, num_workers=2, collate_fn=collate_mixtures))
    assert data.bad_files == 1


def test_evaluation_does_not_replace_a_bad_file(items):
    write_audio(items[1].sources[0], speech(0, 0.7), RATE)
    with pytest.raises(AudioError, match=r"s1/1\.wav must be as long as .*mix/1\.wav, 12000"):
        listed(items, strict=True)[1]


def test_only_bad_files_end_the_training(items):
    for item in items:
        item.mixture.unlink()
    with pytest.raises(AudioError, match="example 0 needs files that can be used, 10 in a row"):
        listed(items, seconds=0.5)[0]


def test_speed_perturbation_adds_the_sources_again(items):
    data = listed(items, speed_perturbation=True)
    lengths = {data[i]["labels"].shape[1] for i in range(6)}
    assert lengths - {12000}
    for i in range(6):
        assert torch.allclose(data[i]["labels"].sum(0), data[i]["input_values"], atol=1e-6)
    noisy = [MixtureItem("a", items[0].mixture, items[0].sources, items[0].mixture)]
    with pytest.raises(ValueError, match="speed_perturbation needs mixtures that are the sum"):
        listed(noisy, speed_perturbation=True)


def test_dynamic_mixing_levels_and_speakers(tmp_path, caplog):
    noise = tmp_path / "noise.wav"
    write_audio(noise, speech(99, 2.0), RATE)
    (tmp_path / "raw").mkdir()
    data = dynamic(tmp_path / "raw", noises=[noise])
    for i in range(20):
        mixed = data.draw(i, 0, np.random.default_rng(i))
        assert mixed.noise is not None
        whole = mixed.sources.sum(0) + mixed.noise
        assert np.abs(mixed.mixture - whole).max() < 1e-6
        assert max(np.abs(mixed.mixture).max(), np.abs(mixed.sources).max()) <= 0.9 + 1e-6
        assert mixed.sources.shape[1] in (8000, 9600, 11200, 12800)
    (tmp_path / "raw" / "speaker0" / "0.wav").write_bytes(b"RIFF")
    with caplog.at_level("WARNING"):
        for i in range(20):
            data[i]
    assert data.bad_files == 1
    with pytest.raises(ValueError, match="must hold at least 2 speakers, got 1"):
        DynamicMixtures({"a": [noise], "b": []}, sampling_rate=RATE, size=1)


def test_a_silent_part_is_drawn_again(tmp_path, caplog):
    loud = speech(0, 1.0)
    pause = np.concatenate([np.zeros(20000, np.float32), loud])
    files = {name: [tmp_path / f"{name}.wav"] for name in ("loud", "pause")}
    for name, samples in (("loud", loud), ("pause", pause)):
        write_audio(files[name][0], samples, RATE)
    data = DynamicMixtures(files, sampling_rate=RATE, size=30, seconds=None)
    for i in range(30):
        labels = data[i]["labels"]
        assert labels.isfinite().all()
        assert (labels.abs().amax(1) > 0).all()
    assert data.bad_files == 0
    assert not caplog.records


def test_dynamic_levels_follow_the_published_distribution():
    from seqlib.data.speech.dynamic import _levels

    rng = np.random.default_rng(0)
    draws = np.asarray([_levels(2, rng) for _ in range(4000)])
    assert draws.mean(0) == pytest.approx([-27.43, -27.43 - 2.51], abs=0.2)
    assert np.diff(draws).std() == pytest.approx(2.66, abs=0.1)


def test_batches_are_padded_at_the_end():
    examples = [{"input_values": torch.ones(n), "labels": torch.ones(2, n)} for n in (3, 5, 1)]
    batch = collate_mixtures(examples)
    assert batch["lengths"].tolist() == [3, 5, 1]
    assert batch["input_values"].sum(1).tolist() == [3.0, 5.0, 1.0]
    assert batch["labels"].shape == (3, 2, 5)
    assert batch["labels"].sum((1, 2)).tolist() == [6.0, 10.0, 2.0]
    with pytest.raises(ValueError, match="example 1 must be 2 sources of 5 samples, got"):
        collate_mixtures([examples[0], {**examples[1], "labels": torch.ones(3, 5)}])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i, s: listed([]), "at least one mixture, got none"),
        (lambda i, s: listed(i, seconds=0.0), "seconds must last at least one sample, got 0.0"),
        (
            lambda i, s: ListedMixtures(i, num_speakers=3, sampling_rate=RATE),
            r"mix/0\.wav must have 3 sources, it has 2",
        ),
        (lambda i, s: load_speech("prompts"), "name must be one of prompts-2mix, .*'prompts'"),
        (lambda i, s: load_speech("wham"), "wham needs root, the folder of the corpus, got None"),
        (
            lambda i, s: load_speech("prompts-2mix", sampling_rate=16000),
            "must have sampling_rate=8000 and mode='min', got 16000",
        ),
    ],
)
def test_wrong_arguments(make, message, items, store):
    with pytest.raises(ValueError, match=message):
        make(items, store)
