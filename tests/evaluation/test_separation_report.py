# SPDX-License-Identifier: Apache-2.0
"""Scores of a model whose separation is known, their tables and pictures, examples to hear."""

import json
import math
import wave
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seqlib.evaluation.separation import si_sdr
from seqlib.evaluation.separation_examples import spectrogram, write_example
from seqlib.evaluation.separation_report import (
    SeparatedRun,
    plot_separation,
    separation_markdown,
    separation_screen,
)
from seqlib.evaluation.separation_score import SeparationScore, score_separation


class Leaky(torch.nn.Module):
    """Gives the sources of the mixtures it knows, swapped, with a leak, on the wrong scale."""

    device = torch.device("cpu")

    def __init__(self, examples, leak):
        super().__init__()
        self.known = {float(e["input_values"][0]): e["labels"] for e in examples}
        self.leak = leak

    def forward(self, input_values):
        assert not self.training
        assert input_values.shape[0] == 1
        sources = self.known[float(input_values[0, 0])]
        leaked = 7 * (sources.flip(0) + self.leak * sources)
        return SimpleNamespace(sources=leaked[None])


@pytest.fixture
def examples():
    draw = torch.Generator().manual_seed(0)
    made = []
    for length in (4000, 5000, 6001):
        labels = 0.1 * torch.randn(2, length, generator=draw)
        made.append({"input_values": labels.sum(0), "labels": labels})
    return made


def test_scores_are_means_over_mixtures(examples):
    model = Leaky(examples, 0.1).train()
    score = score_separation(model, examples, "test", rate=8000)
    assert model.training
    assert (score.split, score.mixtures, score.silent_references) == ("test", 3, 0)
    gains = [
        (
            si_sdr(e["labels"] + 0.1 * e["labels"].flip(0), e["labels"])
            - si_sdr(e["input_values"], e["labels"])
        ).mean()
        for e in examples
    ]
    assert score.means["si_sdri"].value == pytest.approx(float(np.mean(gains)), rel=1e-5)
    assert score.means["si_sdri"].items == 3
    assert score.means["si_sdr"].value == pytest.approx(20, abs=0.5)
    assert score.means["snr"].value < 0  # the scale of the estimates is wrong
    again = SeparationScore.from_dict(json.loads(json.dumps(score, default=vars)))
    assert again == score


def test_silent_references_are_counted_and_left_out(examples):
    one = examples[0]["labels"] * torch.tensor([[1.0], [0.0]])
    none = torch.zeros(2, 100)
    none_mix = torch.zeros(100)
    broken = [
        {"input_values": one.sum(0), "labels": one},
        {"input_values": none_mix, "labels": none},
        *examples[1:],
    ]
    score = score_separation(Leaky(broken, 0.1), broken, "test", rate=8000)
    assert (score.mixtures, score.silent_references) == (4, 3)
    mean = score.means["si_sdri"]
    assert (mean.items, mean.excluded) == (2, 2)  # and a mixture that is its reference already
    assert 10 < mean.value < 30
    assert score.means["si_sdr"].items == 3


def test_library_metrics_are_asked_for(examples):
    pytest.importorskip("pystoi")
    score = score_separation(Leaky(examples, 0.01), examples, "test", rate=8000, libraries=["stoi"])
    assert 0.5 < score.means["stoi"].value <= 1
    with pytest.raises(ValueError, match="no metric 'mos'"):
        score_separation(Leaky(examples, 0.1), examples, "test", rate=8000, libraries=["mos"])


def test_no_mixtures_and_other_counts_are_refused(examples):
    with pytest.raises(ValueError, match="'test' must hold at least one mixture"):
        score_separation(Leaky(examples, 0.1), [], "test", rate=8000)
    three = [{**examples[0], "labels": torch.randn(3, 4000)}]
    with pytest.raises(ValueError, match="as many estimates as references"):
        score_separation(Leaky(examples, 0.1), three, "test", rate=8000)


@pytest.fixture
def runs(examples):
    scores = [
        score_separation(Leaky(examples, leak), examples, split, rate=8000)
        for leak, split in ((0.1, "seen"), (0.3, "unseen"))
    ]
    run = SeparatedRun(
        data="made",
        model="leaky",
        seed=0,
        steps=12,
        minutes=1.5,
        parameters=1234567,
        skipped_steps=0,
        bad_files=0,
        scores=scores,
        curve=[(0.5, 3.0), (1.5, -2.0)],
        origin={"settings": {"a": 1}},
    )
    return [run, replace(run, model="other", scores=scores[:1], data="made")]


def test_tables_have_a_line_per_test_split(runs):
    text = separation_markdown(runs)
    lines = [line for line in text.splitlines() if line.startswith(("| leaky", "| other"))]
    assert len(lines) == 3
    mean = runs[0].scores[1].means["si_sdri"]
    assert f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]" in lines[1]
    assert "1,234,567" in lines[0]
    assert "seen (3 mixtures), unseen (3 mixtures)" in text
    assert len(separation_screen(runs)) == 1
    assert separation_screen([*runs, replace(runs[0], data="more")])[1].row_count == 2


def test_runs_come_back_from_json(runs):
    for run in runs:
        assert SeparatedRun.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_runs_are_drawn(runs, tmp_path):
    path = plot_separation(runs, tmp_path / "runs.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    plot_separation([replace(runs[0], curve=[])], tmp_path / "bare.png")
    with pytest.raises(ValueError, match="at least one run"):
        plot_separation([], tmp_path / "none.png")


def test_examples_can_be_heard(examples, tmp_path):
    example = examples[0]
    references = 8 * example["labels"]  # beyond full scale
    estimates = 1e-3 * references.flip(0)
    files = write_example(
        tmp_path / "new", "a", references.sum(0), estimates, references, rate=8000
    )
    assert [f.name for f in files] == [
        *("a-mix.wav", "a-estimate1.wav", "a-reference1.wav"),
        *("a-estimate2.wav", "a-reference2.wav", "a.png"),
    ]
    heard = {}
    for file in files[:-1]:
        with wave.open(str(file)) as opened:
            assert (opened.getframerate(), opened.getnchannels()) == (8000, 1)
            heard[file.stem[2:]] = np.frombuffer(opened.readframes(10**6), "<i2") / 32768
    assert max(np.abs(signal).max() for signal in heard.values()) == pytest.approx(0.9, abs=1e-4)
    for i in "12":  # in the order and on the level of the references
        np.testing.assert_allclose(heard[f"estimate{i}"], heard[f"reference{i}"], atol=2e-4)
    total = heard["reference1"] + heard["reference2"]
    np.testing.assert_allclose(heard["mix"], total, atol=2e-4)
    assert files[-1].read_bytes().startswith(b"\x89PNG")


def test_a_silent_estimate_is_written_as_silence(examples, tmp_path):
    labels = examples[0]["labels"]
    files = write_example(tmp_path, "a", labels.sum(0), 0 * labels, labels, rate=8000)
    with wave.open(str(files[1])) as opened:
        assert not any(opened.readframes(10**6))


def test_a_spectrogram_shows_a_tone_where_it_is():
    time = torch.arange(8000) / 8000
    picture = spectrogram((2 * math.pi * 1000 * time).sin(), 8000)
    assert picture.shape == (129, 126)  # 256 samples every 64
    assert (picture[:, 5:-5].argmax(0) == 32).all()  # 1000 Hz in steps of 31.25
