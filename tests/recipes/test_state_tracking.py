# SPDX-License-Identifier: Apache-2.0
"""State tracking from settings to a comparison, in seconds: files, resume, refusals."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForTokenClassification, TrainerCallback, get_scheduler

from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError, last_checkpoint
from seqlib.training.settings import as_mapping, parse_settings
from seqlib.training.state_tracking import (
    TaskSettings,
    TrackerSettings,
    build_tracker,
    prepare_task,
)

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "state_tracking"
GRIDS = sorted((RECIPE / "grids").glob("*.yaml"))
PRESETS = sorted(path.name for path in (RECIPE / "configs").glob("*.yaml"))


def load(name):
    """A script of the recipe, under the name by which its neighbours import it."""
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scripts():
    train, compare = load("train"), load("compare")
    yield train, compare
    del sys.modules["train"], sys.modules["compare"]


@pytest.fixture(scope="module")
def recipe(scripts):
    return scripts[0]


TINY = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "mixer_kwargs": {"delta_net": {"num_heads": 2, "use_short_conv": False}},
    "max_steps": 6,
    "save_steps": 3,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "eval_examples": 20,
    "disable_tqdm": True,
    "use_cpu": True,
}
LENGTHS = {"train_lengths": [3, 8], "eval_lengths": [8, 16]}


def words(scripts, output_dir, *more, mixer="delta_net", **settings):
    made = scripts[1].as_words(
        {"output_dir": output_dir, "mixer": mixer, **TINY, **LENGTHS, **settings}
    )
    return [*made, *more]


@pytest.fixture(scope="module")
def finished(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, scripts[0].main(words(scripts, folder))


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
    assert metrics["run"]["seed"] == 42
    assert metrics["run"]["steps"] == 6
    assert metrics["run"]["minutes"] >= 0
    assert metrics["run"]["score"]["sequences"] == 20
    assert metrics["run"]["score"]["lengths"][-1] <= 16
    origin = metrics["run"]["origin"]
    assert origin["settings"]["task"] == "parity"
    assert origin["settings"]["learning_rate"] == 1e-3
    assert origin["versions"]["torch"]
    assert set(losses(folder)) == {1, 2, 3, 4, 5, 6}
    record = yaml.safe_load((folder / "run.yaml").read_text())
    assert record["settings"]["train_lengths"] == [3, 8]
    assert record["data"] == {"task": "parity", "seed": 42, "examples": 24}
    assert record["commit"] == origin["commit"]
    model = AutoModelForTokenClassification.from_pretrained(folder)
    assert model.num_parameters() == run.parameters
    assert "| delta_net | [-1, 1]" in (folder / "accuracy.md").read_text()


def test_a_finished_run_is_only_read(scripts, recipe, finished, monkeypatch):
    folder, run = finished
    monkeypatch.setattr(recipe, "train", None)
    again = recipe.main(words(scripts, folder, task_name="another name"))
    assert again.task == "another name"
    assert again.score == run.score


def test_another_test_does_not_train_again(scripts, recipe, tmp_path):
    folder = tmp_path / "out"
    first = recipe.main(words(scripts, folder))
    weights = (folder / "model.safetensors").read_bytes()
    before = losses(folder)
    second = recipe.main(words(scripts, folder, eval_examples=30, eval_lengths=[20, 24]))
    assert (second.score.sequences, second.score.lengths[0]) == (30, 20)
    assert first.score.sequences == 20
    assert (folder / "model.safetensors").read_bytes() == weights
    assert losses(folder) == before
    assert second.minutes == first.minutes


def test_an_interrupted_run_goes_on_to_the_same_numbers(scripts, recipe, finished, tmp_path):
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
            recipe.main(words(scripts, folder))
    assert last_checkpoint(folder).name == "checkpoint-3"
    resumed = recipe.main(words(scripts, folder))
    assert losses(folder) == losses(whole)
    assert resumed.score == run.score


def test_new_examples_at_every_step_or_the_same_ones_again(scripts):
    def data(*more, **settings):
        made = words(scripts, "unused", *more, **settings)
        task, _, training = parse_settings([TaskSettings, TrackerSettings, TrainSettings], made)
        return prepare_task(task, training)

    assert len(data().train) == 6 * 4
    assert len(data(gradient_accumulation_steps=3).train) == 6 * 4 * 3
    assert len(data(train_examples=10).train) == 10
    assert len(data(train_examples=10, max_steps=-1, num_train_epochs=2).train) == 10
    with pytest.raises(ValueError, match=r"max_steps must be positive .* or set train_examples"):
        data(max_steps=-1)


def test_seeds_and_splits_have_examples_of_their_own(scripts):
    def inputs(split, **settings):
        made = words(scripts, "unused", **{**settings, "train_lengths": [16, 16]})
        task, _, training = parse_settings([TaskSettings, TrackerSettings, TrainSettings], made)
        return getattr(prepare_task(task, training), split)[3]["input_ids"].tolist()

    assert inputs("train") == inputs("train")
    assert inputs("train") != inputs("train", seed=1)
    assert inputs("train") != inputs("test", eval_lengths=[16, 16])


def test_one_switch_sets_the_eigenvalues_of_every_mixer(scripts):
    def options(*more, **settings):
        made = words(scripts, "unused", *more, **settings)
        _, model, _ = parse_settings([TaskSettings, TrackerSettings, TrainSettings], made)
        return model

    assert options().mixer_kwargs["delta_net"]["negative_eigenvalues"] is True
    off = options(negative_eigenvalues=False, num_hidden_layers=2)
    assert off.block_types == ["delta_net", "delta_net"]
    assert off.mixer_kwargs["delta_net"]["negative_eigenvalues"] is False
    both = options(mixer=None, block_types=["delta_net", "full_attention"])
    assert "full_attention" not in both.mixer_kwargs  # it has no eigenvalues
    assert both.mixer_kwargs["delta_net"]["num_heads"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "party"}, r"no task 'party'; did you mean 'parity'"),
        ({"task": "word_problem", "group": "S6"}, r"no group 'S6'; known: A5, S3, S4"),
        ({"group": "S5"}, r"no option of parity 'group'"),
        ({"train_lengths": [8, 3]}, r"two numbers, shortest first, got \[8, 3\]"),
        ({"eval_lengths": [8, 300]}, r"context of 256 tokens, got \[8, 300\]"),
        ({"task": "modular_arithmetic", "train_lengths": [8, 8]}, r"must be odd .* got 8"),
        ({"eval_examples": 0}, r"number of test examples must be at least 1, got 0"),
        ({"hiden_size": 3}, r"no setting 'hiden_size'; did you mean 'hidden_size'"),
        ({"mixer": "delta_nett"}, r"no mixer 'delta_nett'; did you mean 'delta_net'"),
        ({"block_types": ["delta_net"]}, r"exactly one of mixer and block_types"),
        (
            {"mixer_kwargs": {"delta_net": {"negative_eigenvalues": False}}},
            r"negative_eigenvalues is True, but mixer_kwargs of delta_net say False",
        ),
    ],
)
def test_settings_that_are_refused(scripts, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        scripts[0].main(words(scripts, tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_run_is_refused(scripts, recipe, finished):
    folder, _ = finished
    with pytest.raises(CheckpointError, match=r"negative_eigenvalues was True, now False"):
        recipe.main(words(scripts, folder, negative_eigenvalues=False))
    with pytest.raises(CheckpointError, match=r"train_lengths was \[3, 8\], now \[3, 9\]"):
        recipe.main(words(scripts, folder, train_lengths=[3, 9]))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_tasks_and_models(preset, monkeypatch):
    monkeypatch.setattr(TrainSettings, "__post_init__", lambda self: None)  # no bf16, one process
    for name, value in {"world_size": 1, "train_batch_size": 1}.items():
        monkeypatch.setattr(TrainSettings, name, value)
    task, model, training = parse_settings(
        [TaskSettings, TrackerSettings, TrainSettings], [str(RECIPE / "configs" / preset)]
    )
    data = prepare_task(task, training)
    assert len(data.test) >= 1000
    assert data.test.lengths[-1] >= 2 * data.train.lengths[-1]
    network = build_tracker(model, data.task, task.context)
    assert network.config.num_labels == data.task.num_classes
    optimizer = torch.optim.SGD(network.parameters(), lr=training.learning_rate)
    kwargs = as_mapping("lr_scheduler_kwargs", training.lr_scheduler_kwargs)
    schedule = get_scheduler(training.lr_scheduler_type, optimizer, 2, 20, kwargs)
    for _ in range(20):
        optimizer.step()
        schedule.step()
    lowest = training.learning_rate if training.lr_scheduler_type == "constant" else 0
    assert schedule.get_last_lr()[0] == pytest.approx(kwargs.get("min_lr", lowest))


GRID = {
    "models": {
        "one head": {"mixer": "delta_net", "mixer_kwargs": {"delta_net": {"num_heads": 1}}},
        "attention": {"mixer": "full_attention"},
    },
    "settings": {**TINY, **LENGTHS, "max_steps": 2, "context": 64},
}


@pytest.fixture
def grid(tmp_path):
    def write(tasks, **more):
        path = tmp_path / "grid.yaml"
        settings = {k: v for k, v in GRID["settings"].items() if k != "mixer_kwargs"}
        values = {**GRID, "settings": settings, "tasks": tasks, "output_dir": str(tmp_path / "out")}
        path.write_text(yaml.safe_dump({**values, **more}))
        return str(path)

    return write


def test_a_grid_becomes_one_plot_and_no_run_is_made_twice(scripts, grid, tmp_path, monkeypatch):
    train, compare = scripts
    path = grid(
        {
            "Parity": [
                {"config": "parity_prefixes_cpu.yaml", "models": ["one head"], "seeds": [0, 1]},
                {
                    "config": "parity_prefixes_cpu.yaml",
                    "models": ["attention"],
                    "negative_eigenvalues": [False],
                },
            ]
        }
    )
    runs = compare.main([path])
    assert [(run.negative_eigenvalues, run.seed) for run in runs] == [
        *((True, 0), (True, 1), (False, 0), (False, 1), (False, 0)),
    ]
    out = tmp_path / "out"
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    lines = (out / "comparison.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1, 0, 1, 0]
    text = (out / "comparison.md").read_text()
    assert text.count("| one head") == 2
    assert text.startswith("Parity: sequences with all answers right, trained up to length 8")
    monkeypatch.setattr(train, "train", None)
    assert compare.main([path]) == runs


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.name)
def test_every_run_of_a_grid_is_a_run(scripts, path):
    """Settings that are known, models that can be built, folders of their own."""
    compare = scripts[1]
    (wanted,) = parse_settings([compare.GridSettings], [str(path)])
    folders = []
    for title, blocks in wanted.tasks.items():
        for made in (made for block in blocks for made in compare.runs_of(wanted, title, block)):
            task, model, training, _ = parse_settings(
                [TaskSettings, TrackerSettings, TrainSettings, scripts[0].NameSettings],
                [*made, "--use_cpu=true"],
            )
            build_tracker(model, prepare_task(task, training).task, task.context)
            folders.append(training.output_dir)
    assert len(set(folders)) == len(folders) > 0


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"config": "nowhere.yaml", "models": ["attention"]}, r"no config 'nowhere.yaml'"),
        ({"config": "parity_prefixes_cpu.yaml"}, r"task 'Parity' must have a value for 'models'"),
        (
            {"config": "parity_prefixes_cpu.yaml", "models": ["atention"]},
            r"no model of the grid 'atention'; did you mean 'attention'",
        ),
        (
            {"config": "parity_prefixes_cpu.yaml", "models": ["attention"], "seed": 1},
            r"no key of the task 'Parity' 'seed'; did you mean 'seeds'",
        ),
    ],
)
def test_grids_that_are_refused(scripts, grid, task, message):
    with pytest.raises(ValueError, match=message):
        scripts[1].main([grid({"Parity": [task]})])


def test_a_grid_needs_a_task(scripts, grid):
    with pytest.raises(ValueError, match="tasks must hold at least one task"):
        scripts[1].main([grid({})])
