# SPDX-License-Identifier: Apache-2.0
"""Separation from settings to a tested model, in seconds: files, resume, baseline, refusals."""

import importlib.util
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import TrainerCallback

from seqlib.data.speech import write_audio
from seqlib.data.speech.load import NAMES
from seqlib.evaluation.separation import match, si_sdr
from seqlib.models.mossformer2 import MossFormer2ForSpeechSeparation
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError, last_checkpoint
from seqlib.training.separation import MixtureSettings, SeparatorSettings, TestSettings
from seqlib.training.settings import as_mapping, parse_settings

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "speech_separation"
PRESETS = sorted(path.name for path in (RECIPE / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def recipe():
    """The scripts as they import each other: train, tasnet, compare."""
    names = ("tasnet", "train", "compare")
    before = {name: sys.modules.get(name) for name in names}
    found = {}
    for name in names:
        spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
        found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[name])
    yield found
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


def made_sources(rng, length):
    """Two sounds that can be told apart: low and high, each with pauses."""
    time = np.arange(length) / 8000
    pair = []
    for low, high in ((150, 400), (900, 2000)):
        pitch = rng.uniform(low, high)
        voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2))
        pair.append(0.2 * voice * (np.sin(2 * np.pi * rng.uniform(2, 4) * time) > -0.5))
    return np.asarray(pair, np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A few mixtures in the layout of WSJ0-2mix."""
    root, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for subset, count in (("tr", 12), ("cv", 3), ("tt", 4)):
        folder = root / "2speakers" / "wav8k" / "min" / subset
        for part in ("mix", "s1", "s2"):
            (folder / part).mkdir(parents=True)
        for i in range(count):
            sources = made_sources(rng, 4000 + 100 * i)
            for part, samples in zip(("mix", "s1", "s2"), (sources.sum(0), *sources), strict=True):
                write_audio(folder / part / f"{i}.wav", samples, 8000)
    return root


SIZES = {
    "hidden_size": 8,
    "inner_size": 8,
    "query_key_dim": 8,
    "rotary_dim": 4,
    "group_size": 32,
    "num_hidden_layers": 1,
    "fsmn_order": 3,
    "encoder_kernel_size": 32,
}
BASELINE_SIZES = {
    "filters": 8,
    "bottleneck": 8,
    "hidden_size": 8,
    "num_repeats": 1,
    "num_dilations": 2,
}
TINY = {
    "data": "wsj0-2mix",
    "segment_seconds": 0.25,
    "changes": SIZES,
    "max_steps": 6,
    "save_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "prediction_loss_only": True,
    "learning_rate": 1e-2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
BASELINE = {
    "network": "tasnet",
    "per_device_eval_batch_size": 1,
    "changes": BASELINE_SIZES,
}


def words(corpus, output_dir, **settings):
    found = []
    for name, value in {
        "output_dir": output_dir,
        "data_root": corpus,
        **TINY,
        **settings,
    }.items():
        if isinstance(value, list):
            found += [f"--{name}", *map(str, value)]
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            found.append(f"--{name}={text}")
    return found


@pytest.fixture(scope="module")
def finished(recipe, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, recipe["train"].main(words(corpus, folder))


def losses(folder):
    log = json.loads((folder / "metrics.json").read_text())["log"]
    return {row["step"]: row["loss"] for row in log if "loss" in row}


def test_the_output_folder_is_complete(finished):
    folder, run = finished
    names = {path.name for path in folder.iterdir()}
    assert {
        *("checkpoint-6", "config.json", "examples", "loss.png", "metrics.json"),
        *("model.safetensors", "run.yaml", "separation.md", "separation.png"),
    } <= names
    assert len(list((folder / "examples").glob("test-*.wav"))) == 2 * 5
    assert len(list((folder / "examples").glob("test-*.png"))) == 2
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["run"]["steps"] == 6
    assert (metrics["run"]["skipped_steps"], metrics["run"]["bad_files"]) == (0, 0)
    assert len(metrics["run"]["curve"]) == 3
    (score,) = metrics["run"]["scores"]
    assert (score["split"], score["mixtures"], score["silent_references"]) == ("test", 4, 0)
    mean = score["means"]["si_sdri"]
    assert mean["low"] <= mean["value"] <= mean["high"]
    origin = metrics["run"]["origin"]
    assert origin["settings"]["network"] == "mossformer2"
    assert origin["data"]["sets"] == {"train": 12, "validation": 3, "test": 4}
    record = yaml.safe_load((folder / "run.yaml").read_text())
    assert record["data"] == origin["data"]
    assert set(losses(folder)) == {1, 2, 3, 4, 5, 6}
    assert f"{mean['value']:.2f} [{mean['low']:.2f}" in (folder / "separation.md").read_text()
    model = MossFormer2ForSpeechSeparation.from_pretrained(folder)
    assert run.parameters == sum(p.numel() for p in model.parameters())


def test_the_score_is_that_of_the_model(recipe, corpus, finished):
    """A second count, from the files."""
    folder, run = finished
    model = MossFormer2ForSpeechSeparation.from_pretrained(folder).eval()
    (settings,) = parse_settings([MixtureSettings], [f"--data_root={corpus}", "--data=wsj0-2mix"])
    found = recipe["train"].prepare_mixtures(settings, 0).speech.fixed("test")
    gains = []
    for i in range(4):
        mixture, references = found[i]["input_values"], found[i]["labels"]
        with torch.no_grad():
            sources = model(input_values=mixture[None]).sources[0]
        ordered, _ = match(sources, references)
        gains.append(float((si_sdr(ordered, references) - si_sdr(mixture, references)).mean()))
    assert run.scores[0].means["si_sdri"].value == pytest.approx(np.mean(gains), abs=1e-4)


def test_a_finished_run_is_only_read(recipe, corpus, finished, monkeypatch):
    folder, run = finished
    monkeypatch.setattr(recipe["train"], "train", None)
    again = recipe["train"].main(words(corpus, folder, model_name="another name"))
    assert again.model == "another name"
    assert asdict(again)["scores"] == asdict(run)["scores"]


def test_an_interrupted_run_goes_on_to_the_same_numbers(recipe, corpus, finished, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise KeyboardInterrupt

    whole, run = finished
    folder = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe["train"], "SkipNonFinite", Stop)
        with pytest.raises(KeyboardInterrupt):
            recipe["train"].main(words(corpus, folder))
    assert last_checkpoint(folder).name == "checkpoint-3"
    resumed = recipe["train"].main(words(corpus, folder))
    assert losses(folder) == losses(whole)
    assert resumed.scores == run.scores


def test_another_test_is_no_other_run(recipe, corpus, finished, tmp_path, monkeypatch):
    folder, run = finished
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    monkeypatch.setattr(recipe["train"], "write_metrics", lambda *_: None)
    again = recipe["train"].main(words(corpus, copy, eval_mixtures=2, eval_examples=0))
    assert again.scores[0].mixtures == 2
    assert again.steps == run.steps


def test_the_baseline_is_trained_by_the_same_script(recipe, corpus, tmp_path):
    run = recipe["train"].main(words(corpus, tmp_path / "out", **BASELINE, max_steps=2))
    assert (run.model, run.steps) == ("tasnet", 2)
    assert np.isfinite(run.scores[0].means["si_sdri"].value)


def test_both_networks_learn_two_sounds(recipe, corpus, tmp_path):
    """Sounds of other pitch; what some steps of networks of 3,000 weights gain in training."""
    steps = {"max_steps": 60, "eval_strategy": "no", "save_strategy": "no", "eval_examples": 0}
    for name, options in (("mossformer2", {}), ("tasnet", BASELINE)):
        recipe["train"].main(words(corpus, tmp_path / name, **options, **steps))
        found = list(losses(tmp_path / name).values())
        assert np.mean(found[-10:]) < np.mean(found[:10]) - 3, name


def test_the_baseline_has_the_size_of_the_reference(recipe):
    tasnet = recipe["tasnet"]
    model = tasnet.TasNet(tasnet.TasNetConfig()).eval()
    assert sum(p.numel() for p in model.parameters()) == 231_641
    with torch.no_grad():
        for length in (1, 17, 800, 801):
            assert model(torch.randn(2, length)).sources.shape == (2, 2, length)
    labels = torch.randn(2, 2, 801)
    assert model(labels.sum(1), labels=labels).loss.ndim == 0
    with pytest.raises(ValueError, match="lengths of a batch must be equal"):
        model(torch.randn(2, 800), lengths=torch.tensor([800, 799]))
    with pytest.raises(ValueError, match="filter_size must be even, got 15"):
        tasnet.build_tasnet(SeparatorSettings(changes={"filter_size": 15}))


def test_the_baseline_comes_back_from_its_folder(recipe, tmp_path):
    tasnet = recipe["tasnet"]
    model = tasnet.TasNet(tasnet.TasNetConfig(num_repeats=1)).eval()
    model.save_pretrained(tmp_path)
    again = tasnet.TasNet.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 500)
    assert torch.equal(again(x).sources, model(x).sources)


def test_files_that_can_not_be_used_are_counted(recipe, corpus, tmp_path):
    root = tmp_path / "corpus"
    folder = "2speakers/wav8k/min"
    for path in (corpus / folder).rglob("*.wav"):
        copy = root / path.relative_to(corpus)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (root / folder / "tr" / "s1" / "3.wav").write_bytes(b"no sound")
    run = recipe["train"].main(words(root, tmp_path / "out", max_steps=3, eval_strategy="no"))
    assert run.bad_files == 1
    (root / folder / "tt" / "s1" / "3.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"tt/s1/3\.wav"):
        recipe["train"].main(words(root, tmp_path / "other", max_steps=1, eval_strategy="no"))


def test_recordings_are_mixed_anew(recipe, corpus, tmp_path):
    rng = np.random.default_rng(1)
    for speaker in "abc":
        (tmp_path / "voices" / speaker).mkdir(parents=True)
        samples = made_sources(rng, 3000)[0]
        write_audio(tmp_path / "voices" / speaker / "1.wav", samples, 8000)
    voices = {"recordings": tmp_path / "voices", "max_steps": 2}
    run = recipe["train"].main(words(corpus, tmp_path / "out", **voices))
    assert run.origin["data"]["examples"] == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "wsj-2mix"}, "name must be one of"),
        ({"data_root": "/nowhere"}, "/nowhere"),
        ({"network": "tasnt"}, r"no network 'tasnt'; did you mean 'tasnet'"),
        ({"preset": "tinny"}, r"tinny"),
        ({"changes": {"fsmn_order": 0}}, r"fsmn_order"),
        ({"eval_metrics": ["stio"]}, r"no metric 'stio'; did you mean 'stoi'"),
        ({"eval_mixtures": 0}, "eval_mixtures must be positive, got 0"),
        ({"eval_examples": -1}, "eval_examples must not be negative, got -1"),
        ({"segment_seconds": 0}, "segment_seconds must be positive, got 0"),
        ({"noises": "somewhere"}, "noises go with recordings"),
        ({"mixtures_per_epoch": 5}, "size goes with prompts-2mix"),
        (
            {"recordings": "somewhere", "speed_perturbation": True},
            "speed_perturbation goes with lists and prompts",
        ),
        ({"segmnt_seconds": 3}, r"no setting 'segmnt_seconds'; did you mean 'segment_seconds'"),
    ],
)
def test_settings_that_are_refused(recipe, corpus, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        recipe["train"].main(words(corpus, tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_run_is_refused(recipe, corpus, finished):
    folder, _ = finished
    with pytest.raises(CheckpointError, match=r"segment_seconds was 0\.25, now 0\.5"):
        recipe["train"].main(words(corpus, folder, segment_seconds=0.5))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_models_and_schedules(recipe, preset, monkeypatch):
    monkeypatch.setattr(TrainSettings, "__post_init__", lambda self: None)  # no bf16, one process
    mixtures, model, tested, training = parse_settings(
        [MixtureSettings, SeparatorSettings, TestSettings, TrainSettings],
        [str(RECIPE / "configs" / preset)],
    )
    assert mixtures.data in NAMES
    _, build = recipe["train"].NETWORKS[model.network]
    with torch.device("meta"):
        network = build(model, sample_rate=8000, num_speakers=2)
    assert network.config.num_speakers == 2
    assert training.train_minutes or training.num_train_epochs > 3
    assert str(training.output_dir).startswith("outputs/speech_separation/")
    assert training.max_grad_norm == 5.0
    assert training.prediction_loss_only  # else the separated validation set is kept in memory
    as_mapping("lr_scheduler_kwargs", training.lr_scheduler_kwargs)
    tested.check(mixtures.sample_rate)


def test_networks_are_compared_in_one_table(recipe, corpus, tmp_path):
    grid = tmp_path / "grid.yaml"
    short = {"max_steps": 1, "train_minutes": 0, "eval_strategy": "no", "eval_examples": 0}
    settings = {**TINY, **short, "data_root": str(corpus)}
    changes = settings.pop("changes")
    made = {
        "config": "cpu_tiny.yaml",
        "models": {"ours, tiny": {"changes": changes}, "plain": BASELINE},
        "settings": settings,
        "seeds": [0, 1],
        "output_dir": str(tmp_path / "out"),
    }
    grid.write_text(yaml.safe_dump(made))
    runs = recipe["compare"].main([str(grid)])
    assert [(run.model, run.seed) for run in runs] == [
        *(("ours, tiny", 0), ("ours, tiny", 1), ("plain", 0), ("plain", 1))
    ]
    out = tmp_path / "out"
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.md").read_text().count("\n| plain") == 2
    lines = [json.loads(line) for line in (out / "comparison.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 0, 1]
    for broken, message in (
        ({"models": {}}, "models must hold at least one model"),
        ({"config": "cpu_tyny.yaml"}, "no config 'cpu_tyny.yaml'; did you mean 'cpu_tiny.yaml'"),
    ):
        grid.write_text(yaml.safe_dump({**made, **broken}))
        with pytest.raises(ValueError, match=message):
            recipe["compare"].main([str(grid)])


def test_the_grid_of_the_recipe_is_one(recipe):
    (path,) = (RECIPE / "grids").glob("*.yaml")
    (grid,) = parse_settings([recipe["compare"].GridSettings], [str(path)])
    lines = list(recipe["compare"].runs_of(grid))
    assert len(lines) == len(grid.models)
    for line in lines:
        _, model, _, training, names = parse_settings(
            [
                MixtureSettings,
                SeparatorSettings,
                TestSettings,
                TrainSettings,
                recipe["train"].NameSettings,
            ],
            [*line, "--use_cpu=true"],
        )
        assert model.network in recipe["train"].NETWORKS
        assert training.train_minutes <= 15
        assert names.model_name in grid.models
