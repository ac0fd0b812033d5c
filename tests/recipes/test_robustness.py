# SPDX-License-Identifier: Apache-2.0
"""The robustness recipe in seconds: its files, finished runs, refusals, presets."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from seqlib.training.arguments import TrainSettings
from seqlib.training.long_range import ClassifierSettings, SequenceSettings
from seqlib.training.settings import parse_settings

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "robustness"
PRESETS = sorted((RECIPE / "configs").glob("*.yaml"))


def load(name):
    """A script of the recipe, under the name by which its neighbours import it."""
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scripts():
    train, run = load("train"), load("run")
    yield train, run
    del sys.modules["train"], sys.modules["run"]


TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "mixer_kwargs.s4.d_state": 8,
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 8,
    "disable_tqdm": True,
    "use_cpu": True,
}
SMALL = [
    *("--sizes", "8", "--size", "8", "--trade_sizes", "8", "--thetas", "0.2"),
    *("--delay_seeds", "1", "--inits", "legs", "ptd_rank1", "--trained_seeds", "1"),
]


@pytest.fixture(scope="module")
def finished(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustness")
    words = [*SMALL, f"--settings={json.dumps(TINY)}", "--output_dir", str(folder)]
    assert scripts[1].main(words) == folder
    return folder, words


def test_one_command_writes_plots_tables_and_lines(finished):
    folder, _ = finished
    names = ("transfer", "condition", "delay_line", "digits_cpu", "digits_published_cpu")
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "robustness.md").read_text(encoding="utf-8")
    for part in ("| PTD, rank one, θ = 0.2 |   8 |", "NRMSE", "no residual connections, no D"):
        assert part in page
    assert page.count("| S4-PTD, rank one |") == 2
    lines = [json.loads(line) for line in (folder / "robustness.jsonl").read_text().splitlines()]
    found = {line["result"]: line for line in lines}
    assert set(found) == {"Loss", "Standing", "Trade", "DelayScore", "NoisyRun"}
    assert all({"commit", "versions"} <= line["origin"].keys() for line in lines)
    run = found["NoisyRun"]
    assert run["steps"] == 4
    assert run["sequences"] == 450
    assert run["origin"]["settings"]["mixer_kwargs"]["s4"]["init"] == "ptd_rank1"


def test_finished_runs_are_read(scripts, finished, monkeypatch):
    folder, words = finished
    before = (folder / "robustness.md").read_text(encoding="utf-8")
    monkeypatch.setattr(scripts[0], "train_in_folder", None)  # would fail if it were called
    scripts[1].main(words)
    assert (folder / "robustness.md").read_text(encoding="utf-8") == before


def test_the_theory_alone(scripts, tmp_path):
    scripts[1].main([*SMALL, "--trained_seeds", "0", "--output_dir", str(tmp_path)])
    assert not list(tmp_path.glob("digits*"))
    assert (tmp_path / "transfer.png").is_file()


def test_other_noise_tests_a_finished_run_again_without_training(scripts, finished, tmp_path):
    made = finished[0] / "digits_published_cpu" / "legs_seed0"
    folder = shutil.copytree(made, tmp_path / "run")
    words = [
        str(RECIPE / "configs" / "digits_published_cpu.yaml"),
        *(f"--{name}={value}" for name, value in TINY.items()),
        "--mixer_kwargs.s4.init=legs",
        f"--output_dir={folder}",
        "--model_name=again",
    ]
    run = scripts[0].main(words)
    assert run.name == "again"
    assert len(run.accuracy) == 5
    louder = scripts[0].main([*words, "--noise_amplitudes", "0", "100"])
    assert louder.amplitudes == [0.0, 100.0]
    assert louder.accuracy[0] == run.accuracy[0]
    assert louder.steps == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--configs", "digits"], "no config 'digits'; did you mean 'digits_cpu'"),
        (["--settings", "[1]"], "settings must be a mapping"),
        (["--trained_seed", "1"], "no setting 'trained_seed'; did you mean 'trained_seeds'"),
    ],
)
def test_bad_settings_are_named(scripts, words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        scripts[1].main([*words, "--output_dir", str(tmp_path)])


def test_the_published_form_needs_norms_behind_the_layers(scripts, tmp_path):
    words = [str(RECIPE / "configs" / "digits_published_cpu.yaml"), "--norm_position", "pre"]
    with pytest.raises(ValueError, match="norm_position must be 'post' with published_form"):
        scripts[0].main([*words, "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_small_and_differ_in_their_form_alone(scripts, preset):
    kinds = [SequenceSettings, ClassifierSettings, scripts[0].FormSettings, TrainSettings]
    _, model, form, training, _ = parse_settings([*kinds, scripts[0].NoiseSettings], [str(preset)])
    assert form.published_form == ("published" in preset.stem)
    assert model.mixer_kwargs["s4"].get("train_ssm", True) != form.published_form
    assert training.max_steps == 400
    values = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in PRESETS]
    for value in values:
        for name in ("output_dir", "mixer_kwargs", "published_form"):
            value.pop(name, None)
    assert all(value == values[0] for value in values)
