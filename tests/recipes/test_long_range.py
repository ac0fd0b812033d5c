# SPDX-License-Identifier: Apache-2.0
"""Long sequences from settings to a tested model, in seconds: files, resume, refusals."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, TrainerCallback, get_scheduler

from seqlib.data.long_range import Form, SequenceData
from seqlib.data.long_range.generated import GENERATORS
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError, last_checkpoint
from seqlib.training.long_range import (
    ClassifierSettings,
    LongRangeData,
    SequenceSettings,
    build_classifier,
    prepare_sequences,
)
from seqlib.training.settings import as_mapping, parse_settings

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "long_range"
PRESETS = sorted(path.name for path in (RECIPE / "configs").glob("*.yaml"))


def load(name):
    """A script of the recipe."""
    spec = importlib.util.spec_from_file_location(f"long_range_{name}", RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe():
    yield load("train")
    del sys.modules["long_range_train"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQLIB_DATA", str(tmp_path_factory.mktemp("cache")))
        yield


TINY = {
    "task": "listops-s",
    "sizes": [24, 8, 12],
    "hidden_size": 8,
    "intermediate_size": 0,
    "mixer": "s5",
    "mixer_kwargs": {"s5": {"d_state": 8, "bidirectional": True}},
    "max_steps": 6,
    "save_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "disable_tqdm": True,
    "use_cpu": True,
}


def words(output_dir, **settings):
    found = []
    for name, value in {"output_dir": output_dir, **TINY, **settings}.items():
        if isinstance(value, list):
            found += [f"--{name}", *map(str, value)]
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            found.append(f"--{name}={text}")
    return found


@pytest.fixture(scope="module")
def finished(recipe, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, recipe.main(words(folder))


def losses(folder):
    log = json.loads((folder / "metrics.json").read_text())["log"]
    return {row["step"]: row["loss"] for row in log if "loss" in row}


def test_the_output_folder_is_complete(finished):
    folder, run = finished
    names = {path.name for path in folder.iterdir()}
    assert {
        *("accuracy.md", "accuracy.png", "config.json", "loss.png", "metrics.json"),
        *("model.safetensors", "run.yaml", "runs", "checkpoint-6"),
    } <= names
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["run"]["steps"] == 6
    assert [step for step, _ in metrics["run"]["curve"]] == [2, 4, 6]
    assert metrics["run"]["curve_split"] == "validation"
    score = metrics["run"]["score"]
    assert (score["split"], score["sequences"]) == ("test", 12)
    assert 0 <= score["accuracy"] <= 1
    assert score["majority"] >= 1 / 10
    origin = metrics["run"]["origin"]
    assert origin["settings"]["mixer"] == "s5"
    assert origin["settings"]["learning_rate"] == 1e-3
    assert origin["data"]["task"] == "listops-s"
    assert len(origin["data"]["sha256"]) == 64
    record = yaml.safe_load((folder / "run.yaml").read_text())
    assert record["data"] == origin["data"]
    assert record["commit"] == origin["commit"]
    assert set(losses(folder)) == {1, 2, 3, 4, 5, 6}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.num_parameters() == run.parameters
    assert f"{score['accuracy']:.3f} ±" in (folder / "accuracy.md").read_text()


def test_the_score_is_that_of_the_model(finished):
    """A second count: row by row, without padding."""
    folder, run = finished
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    (settings,) = parse_settings(
        [SequenceSettings], ["--task=listops-s", "--sizes", *map(str, TINY["sizes"])]
    )
    part = prepare_sequences(settings).sequences["test"]
    right, nats = [], []
    for i in range(len(part)):
        item = part[i]
        with torch.no_grad():
            logits = model(input_ids=item["input_ids"][None]).logits[0]
        right.append(int(logits.argmax()) == item["labels"])
        nats.append(-float(logits.log_softmax(-1)[item["labels"]]))
    assert run.score.accuracy == pytest.approx(np.mean(right))
    assert run.score.loss == pytest.approx(np.mean(nats), rel=1e-4)
    assert run.score.error == pytest.approx(np.std(right) / len(right) ** 0.5)


def test_a_finished_run_is_only_read(recipe, finished, monkeypatch):
    folder, run = finished
    monkeypatch.setattr(recipe, "train", None)
    again = recipe.main(words(folder, model_name="another name"))
    assert again.model == "another name"
    assert again.score == run.score
    assert again.curve == run.curve


def test_an_interrupted_run_goes_on_to_the_same_numbers(recipe, finished, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise KeyboardInterrupt

    whole, run = finished
    folder = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        made = recipe.train_in_folder
        patch.setattr(recipe, "train_in_folder", lambda *a, **k: made(*a, callbacks=[Stop()], **k))
        with pytest.raises(KeyboardInterrupt):
            recipe.main(words(folder))
    assert last_checkpoint(folder).name == "checkpoint-3"
    resumed = recipe.main(words(folder))
    assert losses(folder) == losses(whole)
    assert resumed.score == run.score
    assert resumed.curve == run.curve


def test_real_digits_have_no_validation_split(recipe, tmp_path):
    pytest.importorskip("sklearn")
    run = recipe.main(
        words(
            tmp_path / "out",
            task="digits",
            sizes=None,
            max_steps=1,
            eval_strategy="no",
            norm_type="batch",
            mixer="s4",
            mixer_kwargs={"s4": {"d_state": 8, "bidirectional": True}},
        )
    )
    assert (run.score.split, run.score.sequences, run.curve) == ("test", 450, [])


def test_a_users_own_pairs(recipe, tmp_path):
    lines = [{"a": "abc", "b": "cba" * (i % 3 + 1), "label": i % 2} for i in range(12)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = recipe.main(
        words(
            tmp_path / "out",
            task=None,
            sizes=None,
            max_steps=2,
            train_files=[str(path)],
            validation_files=[str(path)],
            input_columns=["a", "b"],
        )
    )
    assert (run.score.split, run.score.sequences) == ("validation", 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "listop"}, r"no task 'listop'; did you mean 'listops'"),
        ({"task": None}, r"exactly one of name, train_files and dataset_name"),
        ({"task": "digits"}, r"sizes go with generated data"),
        ({"hiden_size": 3}, r"no setting 'hiden_size'; did you mean 'hidden_size'"),
        ({"mixer": "mambo"}, r"no mixer 'mambo'; did you mean 'mamba'"),
        ({"block_types": ["s4"]}, r"exactly one of mixer and block_types"),
        ({"pooling": "max"}, r"no pooling 'max'"),
        ({"norm_type": "group"}, r"no norm_type 'group'"),
        ({"input_columns": ["a", "b", "c"]}, r"input_columns must be one or two names"),
    ],
)
def test_settings_that_are_refused(recipe, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        recipe.main(words(tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_run_is_refused(recipe, finished):
    folder, _ = finished
    with pytest.raises(CheckpointError, match=r"hidden_size was 8, now 16"):
        recipe.main(words(folder, hidden_size=16))
    with pytest.raises(CheckpointError, match=r"data sha256 was"):
        recipe.main(words(folder, sizes=[25, 8, 12]))


def form_of(settings):
    """What the data of a preset looks like, without making or reading it."""
    if settings.task in GENERATORS:
        return GENERATORS[settings.task].form
    if settings.task is not None:
        return Form(num_classes=10, length=64, features=1)
    if settings.image_mode == "L" and "img" in settings.input_columns:
        return Form(num_classes=10, length=1024, features=1)
    pairs = len(settings.input_columns) == 2
    return Form(num_classes=2, length=settings.max_length, vocab_size=257, pairs=pairs)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_models_and_schedules(preset, monkeypatch):
    monkeypatch.setattr(TrainSettings, "__post_init__", lambda self: None)  # no bf16, one process
    sequences, model, training = parse_settings(
        [SequenceSettings, ClassifierSettings, TrainSettings], [str(RECIPE / "configs" / preset)]
    )
    form = form_of(sequences)
    with torch.device("meta"):
        network = build_classifier(model, LongRangeData(SequenceData(form, {}, {})))
    assert network.config.num_labels == form.num_classes
    assert network.config.pairs == form.pairs
    assert network.config.input_features == form.features
    assert training.max_steps > 0 or training.num_train_epochs > 0
    assert str(training.output_dir).startswith("outputs/long_range/")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=training.learning_rate)
    kwargs = as_mapping("lr_scheduler_kwargs", training.lr_scheduler_kwargs)
    schedule = get_scheduler(training.lr_scheduler_type, optimizer, 2, 20, kwargs)
    for _ in range(20):
        optimizer.step()
        schedule.step()
    assert 0 <= schedule.get_last_lr()[0] < training.learning_rate


def test_runs_are_collected(finished, tmp_path):
    collect = load("collect")
    folder, run = finished
    out = tmp_path / "results"
    given = ["--runs", str(folder), str(folder), "--output_dir", str(out)]
    assert [found.score for found in collect.main(given)] == [run.score] * 2
    assert (out / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "runs.md").read_text().count("\n| s5") == 2
    lines = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["listops-s"] * 2
    with pytest.raises(ValueError, match=r"runs: .* holds no finished run"):
        collect.main(["--runs", str(tmp_path)])
    with pytest.raises(ValueError, match="runs must name at least one folder"):
        collect.main([])
