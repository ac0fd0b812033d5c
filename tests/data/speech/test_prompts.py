# SPDX-License-Identifier: Apache-2.0
"""prompts-2mix: cleaning, splits, persons, fixed sets, and the real recordings once."""

import csv
import json
import wave

import numpy as np
import pytest

from seqlib.cli import main
from seqlib.data.cache import cache_root
from seqlib.data.speech import AudioError, load_speech, read_audio
from seqlib.data.speech.mixing import mix
from seqlib.data.speech.prompt_store import Utterance, open_prompts, split_of
from seqlib.data.speech.prompts import VOICES
from seqlib.data.speech.prompts_2mix import Drawer, fixed_draws, training_drawer


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def store(prompt_root, tmp_path_factory):
    return open_prompts(tmp_path_factory.mktemp("cache"), path=prompt_root)


def test_missing_packages_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"packages asterisk-core-sounds-en-wav, .*festvox-ru: in"):
        load_speech("prompts-2mix", root=tmp_path, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_cleaning(store):
    assert store.keys("june", None).count("p3") == 1
    keys = {key for v in VOICES for key in store.keys(v.name, None)}
    assert not {"beep", "is", "short", "silence/1"} & keys
    assert "festvox-ru/p3" in keys
    dropped = store.manifest["dropped"]
    assert "three times" in dropped["menardi/thanks"]
    assert sum("shorter than 0.3 s" in reason for reason in dropped.values()) == 14
    # 0.2 s of silence at each end but two frames of it, at 8,000 per second for every voice
    for voice, key in (("june", "p3"), ("nsh", "festvox-ru/p3")):
        assert len(store.samples(voice, key)) == pytest.approx(1.58 * 8000, abs=320)


def test_a_sentence_is_in_one_split_whoever_says_it(store):
    splits = {s: set(store.keys("june", s)) for s in ("train", "validation", "test")}
    assert {s: set(store.keys("carlo", s)) for s in splits} == splits
    assert all(split_of(key) == s for s, keys in splits.items() for key in keys)


def test_splits_follow_the_published_hash():
    # from sha256("prompts-2mix-v1:" + key): 0.4540, 0.8807, 0.9767
    expected = {"digits/1": "train", "digits/9": "validation", "digits/7": "test"}
    assert {key: split_of(key) for key in expected} == expected


def test_utterances_last_four_seconds_and_say_each_prompt_once(store):
    utterances = store.plan(["june", "nsh"], "train", 0, "u")
    said = [(u.voice, key) for u in utterances for key in u.keys]
    assert len(said) == len(set(said))
    for u in utterances:
        sound = store.speech(u)
        assert len(sound) >= 32000
        last = len(store.samples(u.voice, u.keys[-1])) + u.gaps[-1]
        assert len(sound) - last < 32000
        assert all(800 <= gap <= 2400 for gap in u.gaps)
    assert store.plan(["june", "nsh"], "train", 0, "u") == utterances
    assert store.plan(["june", "nsh"], "train", 1, "u") != utterances


def test_nobody_is_mixed_with_himself(store):
    rng = np.random.default_rng(0)
    for across in (False, True):
        drawer = training_drawer(store, 0, 0, across_sexes=across)
        for _ in range(200):
            a, b = (store.voices[u.voice] for u in drawer.draw(rng).utterances)
            assert a.person != b.person
            assert not {a.person, b.person} & {"carlo", "menardi"}
            assert not across or a.sex != b.sex
    alone = [Utterance(v, ("p3",), ()) for v in ("allison-en", "allison-es")]
    with pytest.raises(ValueError, match="another person to be mixed with, allison has none"):
        Drawer(store, alone, across_sexes=False)


def test_too_few_prompts_for_a_fixed_set(store):
    with pytest.raises(ValueError, match="validation needs 300 pairs of utterances, its prompts"):
        fixed_draws(store, "validation", across_sexes=True)


def test_fixed_sets_have_the_layout_of_wsj0_and_can_be_mixed_again(
    prompt_root, tmp_path, small_sets
):
    data = load_speech("prompts-2mix", root=prompt_root, cache_dir=tmp_path)
    folder = data.sets["validation"][0].mixture.parents[4]
    rows = read_rows(folder / "tt_unseen.csv")
    assert len(rows) == 4
    assert {r[f"voice_{i}"] for r in rows for i in (1, 2)} == {"carlo", "menardi"}
    row = rows[0]
    assert row["mixture"] == f"wav8k/min/tt_unseen/mix/{row['id']}.wav"
    utterances = [
        Utterance(
            row[f"voice_{i}"],
            tuple(row[f"keys_{i}"].split()),
            tuple(map(int, row[f"gaps_{i}"].split())),
        )
        for i in (1, 2)
    ]
    gains = [float(row[f"gain_{i}"]) for i in (1, 2)]
    assert gains[0] == -gains[1]
    assert abs(gains[0]) <= 2.5
    again = mix([data.store.speech(u) for u in utterances], gains, 8000)
    assert len(again.mixture) == int(row["length"])
    assert np.abs(read_audio(folder / row["source_2"]) - again.sources[1]).max() < 2e-5
    for items in data.sets.values():
        for item in items:
            item.check(8000)
    seen = {r["voice_1"] for r in read_rows(folder / "tt.csv")}
    assert not seen & {"carlo", "menardi"}


def test_preparing_twice_gives_the_same_bytes(prompt_root, tmp_path, small_sets):
    first = load_speech("prompts-2mix", root=prompt_root, cache_dir=tmp_path / "a")
    second = load_speech("prompts-2mix", root=prompt_root, cache_dir=tmp_path / "b")
    assert first.manifest["sha256"] == second.manifest["sha256"]
    other = load_speech("prompts-2mix-mf", root=prompt_root, cache_dir=tmp_path / "a")
    assert other.manifest["sha256"] != first.manifest["sha256"]
    sexes = {v.name: v.sex for v in VOICES}
    for row in read_rows(other.sets["test-seen"][0].mixture.parents[4] / "tt.csv"):
        assert sexes[row["voice_1"]] != sexes[row["voice_2"]]


def test_packages_that_are_missing_are_fetched(prompt_root, tmp_path, small_sets, monkeypatch):
    fetched = []

    def fetch(package, folder):
        (voice,) = (v for v in VOICES if v.package == package)
        (folder / voice.folder).parent.mkdir(parents=True)
        (folder / voice.folder).symlink_to(prompt_root / voice.folder)
        fetched.append(package)
        return "1.0"

    monkeypatch.setattr("seqlib.data.speech.prompts.fetch_package", fetch)
    there = tmp_path / "root" / VOICES[0].folder
    there.parent.mkdir(parents=True)
    there.symlink_to(prompt_root / VOICES[0].folder)
    data = load_speech("prompts-2mix", root=tmp_path / "root", fetch=True, cache_dir=tmp_path)
    assert fetched == [v.package for v in VOICES[1:]]
    assert data.manifest["versions"]["festvox-ru"] == "1.0"
    assert data.manifest["attribution"]["festvox-ru"] == "Nickolay Shmyrev 2005"


def test_a_damaged_recording_is_fatal_and_leaves_nothing(prompt_root, tmp_path):
    root = tmp_path / "root"
    for voice in VOICES:
        (root / voice.folder).parent.mkdir(parents=True, exist_ok=True)
        (root / voice.folder).symlink_to(prompt_root / voice.folder)
    bad = root / VOICES[0].folder
    bad.unlink()
    bad.mkdir()
    (bad / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"x\.wav can't be decoded"):
        load_speech("prompts-2mix", root=root, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_lists_made_from_other_prompts_are_refused(prompt_root, tmp_path, small_sets):
    load_speech("prompts-2mix", root=prompt_root, cache_dir=tmp_path)
    (file,) = tmp_path.glob("prompts-v1-*/manifest.json")
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "sha256": "0"}))
    with pytest.raises(ValueError, match="made from other prompts than"):
        load_speech("prompts-2mix", root=prompt_root, cache_dir=tmp_path)


def test_the_command(prompt_root, tmp_path, small_sets, monkeypatch, capsys):
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path))
    main(["data", "prompts-2mix", "--root", str(prompt_root), "--oracle", "2"])
    shown = capsys.readouterr().out
    assert "test-unseen: 4 mixtures" in shown
    assert "ideal ratio" in shown
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match="the prompts need the Debian packages"):
        main(["data", "prompts-2mix", "--root", str(tmp_path)])


@pytest.mark.requires_data
def test_the_real_recordings():
    if not (cache_root() / "prompts-2mix-v1").is_dir():
        pytest.skip("needs asterisk-core-sounds-*-wav, asterisk-prompt-it-menardi-wav, festvox-ru")
    data = load_speech("prompts-2mix")
    dropped = list(data.store.manifest["dropped"].values())
    assert sum("shorter" in reason for reason in dropped) == 24
    assert sum("longer" in reason for reason in dropped) == 1
    minutes = data.store.manifest["minutes"]
    for split, total in (("train", 186.9), ("validation", 22.5), ("test", 25.7)):
        assert sum(m[split] for m in minutes.values()) == pytest.approx(total, abs=0.1)
    assert {s: len(items) for s, items in data.sets.items()} == {
        "validation": 300, "test-seen": 500, "test-unseen": 500,
    }  # fmt: skip
    with wave.open(str(data.sets["test-seen"][0].mixture)) as file:
        assert (file.getframerate(), file.getsampwidth()) == (8000, 2)
