# SPDX-License-Identifier: Apache-2.0
"""Readers of public corpora, on folders of generated sound in their layouts."""

import csv

import pytest

from seqlib.data.speech import AudioError, load_speech, read_list, write_audio
from seqlib.data.speech.layouts import libri_mix, libri_mix_list, wham, whamr, wsj0_mix

from .conftest import RATE, speech, write_mixture


def test_wsj0_three_speakers_and_both_roots(tmp_path):
    base = tmp_path / "3speakers" / "wav8k" / "min" / "cv"
    write_mixture(base, "a_1_b.wav", ("mix", "s1", "s2", "s3"))
    for root in (tmp_path, tmp_path / "3speakers"):
        (item,) = wsj0_mix(root, "validation", num_speakers=3)
        assert item.name == "a_1_b"
        assert [p.parent.name for p in item.sources] == ["s1", "s2", "s3"]
        item.check(RATE)


@pytest.mark.parametrize("kind", ["clean", "both", "single"])
def test_libri_mix_and_wham(kind, tmp_path):
    parts = {"clean": ("s1", "s2"), "both": ("s1", "s2", "noise"), "single": ("s1", "noise")}[kind]
    libri = tmp_path / "Libri2Mix" / "wav16k" / "max" / "train-360"
    write_mixture(libri, "x.wav", (f"mix_{kind}", *parts), rate=16000)
    (item,) = libri_mix(tmp_path, "train", sampling_rate=16000, mode="max", kind=kind)
    item.check(16000)
    assert (item.noise is None) == (kind == "clean")
    assert len(item.sources) == (1 if kind == "single" else 2)
    write_mixture(tmp_path / "wav8k" / "min" / "tt", "y.wav", (f"mix_{kind}", *parts))
    (item,) = wham(tmp_path, "test", kind=kind)
    item.check(RATE)


def test_libri_mix_by_its_list(tmp_path):
    base = tmp_path / "wav8k" / "min"
    write_mixture(base / "dev", "1_2.wav", ("mix_both", "s1", "s2", "noise"))
    (base / "metadata").mkdir()
    file = base / "metadata" / "mixture_dev_mix_both.csv"
    columns = ("mixture_ID", "mixture_path", "source_1_path", "source_2_path", "noise_path")
    far = "/elsewhere/Libri2Mix/wav8k/min/dev"
    paths = [f"{far}/{part}/1_2.wav" for part in ("mix_both", "s1", "s2", "noise")]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([(*columns, "length"), ("1_2", *paths, 12000)])
    (item,) = libri_mix_list(file)
    item.check(RATE)
    assert item.length(RATE) == 12000
    file.write_text("mixture_ID,path\n")
    with pytest.raises(ValueError, match=r"must have the columns mixture_path .*it has mixture_ID"):
        libri_mix_list(file)


def test_whamr_separates_into_anechoic_sources(tmp_path):
    base = tmp_path / "wav8k" / "min" / "tr"
    write_mixture(base, "z.wav", ("mix_both_reverb", "s1_reverb", "s2_reverb", "noise"))
    for s in (1, 2):
        (base / f"s{s}_anechoic").mkdir()
        write_audio(base / f"s{s}_anechoic" / "z.wav", speech(s + 50, 1.5), RATE)
    (item,) = whamr(tmp_path, "train")
    assert [p.parent.name for p in item.sources] == ["s1_anechoic", "s2_anechoic"]
    assert not item.additive
    item.check(RATE)
    (item,) = whamr(tmp_path, "train", target="reverb")
    assert item.additive
    item.check(RATE)
    with pytest.raises(ValueError, match="target must be one of anechoic, reverb, got 'dry'"):
        whamr(tmp_path, "train", target="dry")


def test_what_a_folder_lacks_is_named(tmp_path):
    base = tmp_path / "wav8k" / "min" / "tr"
    with pytest.raises(ValueError, match="tr must hold the folder mix, it does not"):
        wsj0_mix(tmp_path, "train")
    write_mixture(base, "a.wav", ("mix", "s1", "s2"))
    write_mixture(base, "b.wav", ("mix", "s1"))
    with pytest.raises(ValueError, match=r"s2 must hold a file for every mixture, b\.wav is"):
        wsj0_mix(tmp_path, "train")
    with pytest.raises(ValueError, match="kind must be one of clean, both, single, got 'noisy'"):
        wham(tmp_path, "train", kind="noisy")
    with pytest.raises(ValueError, match="sampling_rate must be whole thousands, got 11025"):
        wham(tmp_path, "train", sampling_rate=11025)


def test_noise_of_another_length(tmp_path):
    base = tmp_path / "wav8k" / "min" / "tr"
    write_mixture(base, "a.wav", ("mix_both", "s1", "s2", "noise"))
    write_audio(base / "noise" / "a.wav", speech(0, 1.4), RATE)
    with pytest.raises(
        AudioError, match=r"noise/a\.wav must be as long as .*mix_both/a\.wav, 12000"
    ):
        wham(tmp_path, "train")[0].read(RATE)


def test_a_mixture_that_is_not_the_sum(tmp_path, caplog):
    for subset in ("tr", "cv", "tt"):
        write_mixture(tmp_path / "wav8k" / "min" / subset, "a.wav", ("mix", "s1", "s2"))
    assert len(load_speech("wsj0-2mix", root=tmp_path).train(seconds=None)) == 1
    assert not caplog.records
    wrong = tmp_path / "wav8k" / "min" / "cv" / "s2" / "a.wav"
    write_audio(wrong, speech(77, 1.5), RATE)
    with pytest.raises(AudioError, match=r"a\.wav must be the sum of its sources, it differs"):
        wsj0_mix(tmp_path, "cv")[0].check(RATE)
    with caplog.at_level("WARNING"):
        data = load_speech("wsj0-2mix", root=tmp_path)
    assert "must be the sum" in caplog.text
    with pytest.raises(ValueError, match="size goes with prompts-2mix"):
        data.train(size=5)
    with pytest.raises(ValueError, match="set must be one of train, validation, test, got 'tt'"):
        data.fixed("tt")


def test_lists_of_ones_own(tmp_path):
    write_mixture(tmp_path, "a.wav", ("mix", "s1", "s2"))
    file = tmp_path / "list.csv"
    file.write_text("mixture,source_1,source_2\nmix/a.wav,s1/a.wav,s2/a.wav\n")
    (item,) = read_list(file)
    item.check(RATE)
    with pytest.raises(AudioError, match="must have 16000 samples per second, it has 8000"):
        item.length(16000)
    file.write_text("mixture\n")
    with pytest.raises(ValueError, match="must have the columns mixture and source_1"):
        read_list(file)
    file.write_text("mixture,source_1\n")
    with pytest.raises(ValueError, match="must hold at least one mixture"):
        read_list(file)
