# SPDX-License-Identifier: Apache-2.0
"""The recipe from text files to a sample, in seconds, and what it says to unusable input."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from seqlib import cli
from seqlib.data import joined_bytes, load_corpus, shuffled_prefix
from seqlib.evaluation import ngram_bits_per_byte
from seqlib.models import SeqLMConfig
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.language_model import (
    DataSettings,
    count_parameters,
    prepare_text,
    transformer_like,
)
from seqlib.training.model import ModelSettings
from seqlib.training.settings import parse_settings

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "language_pretraining"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("language_pretraining", RECIPE / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two dozen small texts; the prepared data goes into a cache of its own."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "def f(x):", "return x", "\n", "    "]
    for i in range(24):
        text = " ".join(draw.choice(words) for _ in range(300))
        (folder / f"{i}.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQLIB_DATA", str(tmp_path_factory.mktemp("cache")))
        yield folder


def words(files, output_dir, *more):
    return [
        f"--output_dir={output_dir}",
        "--train_files",
        f"{files}/*.txt",
        "--tokenizer=bytes",
        "--sequence_length=32",
        "--hidden_size=16",
        "--intermediate_size=32",
        "--block_types",
        "gated_delta_net",
        "full_attention",
        '--mixer_kwargs={"gated_delta_net": {"num_heads": 2, "head_dim": 8, "expand_v": 1}}',
        "--mixer_kwargs.full_attention.num_heads=2",
        "--max_steps=6",
        "--save_steps=3",
        "--logging_steps=2",
        "--per_device_train_batch_size=4",
        "--transformer_baseline=true",
        "--eval_bytes=2000",
        "--sample_tokens=8",
        "--prompt=alpha",
        "--disable_tqdm=true",
        "--use_cpu=true",
        *more,
    ]


@pytest.fixture(scope="module")
def finished(recipe, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    recipe.main(words(files, folder))
    return folder


def test_the_output_folder_is_complete(finished, files):
    names = {path.name for path in finished.iterdir()}
    assert {
        "README.md",
        "config.json",
        "generation_config.json",
        "loss.png",
        "metrics.json",
        "model.safetensors",
        "run.yaml",
        "runs",
        "tokenizer.json",
        "transformer",
    } <= names
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert metrics["trained_tokens"] == 6 * 4 * 32
    assert 0 < metrics["bits_per_byte"]["bits_per_byte"] < 9
    assert [row["step"] for row in metrics["log"] if "loss" in row] == [2, 3, 4, 6]
    compared = " ".join(row["name"] for row in metrics["comparison"])
    for name in ("this model", "Transformer", "xz", "n-gram"):
        assert name in compared
    record = yaml.safe_load((finished / "run.yaml").read_text())
    assert record["settings"]["hidden_size"] == 16
    assert record["settings"]["train_files"] == [f"{files}/*.txt"]
    assert record["data"]["sha256"] == metrics["data"]["sha256"]
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "bits_per_byte" in (finished / "README.md").read_text()


def test_n_grams_are_counted_on_as_many_bytes_as_the_model_saw(finished, files):
    metrics = json.loads((finished / "metrics.json").read_text())
    corpus = load_corpus(train_files=[f"{files}/*.txt"])
    seen = metrics["distinct_trained_bytes"]
    assert seen == min(metrics["trained_tokens"], corpus["train"].num_bytes)
    train = joined_bytes(shuffled_prefix(corpus["train"], seen))
    held_out = joined_bytes(shuffled_prefix(corpus["validation"], 2000))
    assert metrics["bits_per_byte"]["num_bytes"] == len(held_out)
    (score,) = (row for row in metrics["comparison"] if row["name"] == "best byte n-gram")
    assert score["bits_per_byte"] == min(ngram_bits_per_byte(train, held_out))


def test_the_rival_is_a_transformer_of_the_same_size(finished):
    ours = AutoModelForCausalLM.from_pretrained(finished)
    rival = AutoModelForCausalLM.from_pretrained(finished / "transformer")
    assert set(rival.config.block_types) == {"full_attention"}
    # sizes this small can't come closer than one step of 16 in the width of the MLPs
    assert rival.num_parameters() == pytest.approx(ours.num_parameters(), rel=0.06)


@pytest.mark.parametrize("preset", ["cpu_tiny", "gpu_340m", "gpu_1b"])
def test_presets_are_models_whose_rivals_have_their_size(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainSettings, "__post_init__", lambda self: None)  # no bf16, one process
    recipe_only = {"transformer_baseline", "text_baselines", "prompt", "sample_tokens"}
    values = yaml.safe_load((RECIPE / "configs" / f"{preset}.yaml").read_text())
    kept = {k: v for k, v in values.items() if k not in recipe_only | {"eval_bytes"}}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(kept))
    data, model, _ = parse_settings([DataSettings, ModelSettings, TrainSettings], [str(path)])
    fields = {k: v for k, v in vars(model).items() if v is not None}
    config = SeqLMConfig(**fields, vocab_size=data.vocab_size)
    size = count_parameters(config)
    wanted = {"cpu_tiny": 3.3e6, "gpu_340m": 374e6, "gpu_1b": 1.37e9}[preset]
    assert size == pytest.approx(wanted, rel=0.1)
    assert count_parameters(transformer_like(config)) == pytest.approx(size, rel=0.01)


def test_a_second_run_trains_nothing_and_scores_the_same(recipe, finished, files, capsys):
    def read():
        return json.loads((finished / "metrics.json").read_text())["bits_per_byte"]

    before, weights = read(), (finished / "model.safetensors").read_bytes()
    recipe.main(words(files, finished))
    assert read() == before
    assert (finished / "model.safetensors").read_bytes() == weights
    lines = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("alpha") for line in lines)
    assert all(line.split()[0].replace(".", "").isdigit() for line in lines[-5:])


def test_another_architecture_is_not_resumed(recipe, finished, files, tmp_path):
    checkpoint = finished / "checkpoint-6"
    other = words(files, tmp_path / "out", f"--resume_from_checkpoint={checkpoint}")
    with pytest.raises(CheckpointError, match=r"hidden_size is 16 there and 24 here"):
        recipe.main([*other, "--hidden_size=24"])
    with pytest.raises(CheckpointError, match=r"vocab_size is 260 there and 300 here"):
        recipe.main([*other, "--tokenizer=bpe", "--vocab_size=300"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\x00\x01binary", "is binary"), (None, "nowhere")],
)
def test_unusable_text_is_named(recipe, files, tmp_path, content, message):
    path = tmp_path / "nowhere.txt"
    if content is not None:
        path.write_bytes(content)
    arguments = words(files, tmp_path / "out")
    arguments[arguments.index(f"{files}/*.txt")] = str(path)
    with pytest.raises(ValueError, match=message):
        recipe.main(arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--hiden_size=3", "no setting 'hiden_size'; did you mean 'hidden_size'"),
        ("--corpus=pystdlb", "exactly one of"),
        ("--mixer_kwargs.gated_delta_net.num_haeds=2", "did you mean 'num_heads'"),
        ("--tokenizer=bpee", "'bpee'; did you mean 'bpe'"),
        ("--tokenizer=./nowhere/at/all", "tokenizer './nowhere/at/all' can't be loaded"),
        ("--vocab_size=many", "invalid int value: 'many'"),
    ],
)
def test_settings_that_are_refused(recipe, files, tmp_path, word, message):
    with pytest.raises(ValueError, match=message):
        recipe.main(words(files, tmp_path / "out", word))


def test_a_folder_that_can_not_be_made_ends_the_command_with_one_line(files, tmp_path):
    (tmp_path / "taken").write_text("a file")
    command = [sys.executable, str(RECIPE / "train.py"), *words(files, tmp_path / "taken")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "taken" in last


def test_one_record_tells_texts_apart(files, tmp_path):
    settings = DataSettings(train_files=[f"{files}/*.txt"], tokenizer="bytes", sequence_length=32)
    text = prepare_text(settings)
    corpus = load_corpus(train_files=[f"{files}/*.txt"])
    assert text.identity()["sha256"] == corpus.sha256
    assert text.bytes_per_token == pytest.approx(1.0)


def test_the_command_line_tool(finished, files, capsys):
    cli.main(["generate", str(finished), "--prompt", "beta", "--max_new_tokens", "4"])
    assert capsys.readouterr().out.startswith("beta")
    cli.main(["evaluate", str(finished), "--files", f"{files}/1.txt"])
    assert "bits per byte on" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exactly one of --corpus and --files"):
        cli.main(["evaluate", str(finished)])
    with pytest.raises(SystemExit, match="error: window must"):
        cli.main(["evaluate", str(finished), "--files", f"{files}/1.txt", "--window", "0"])
    with pytest.raises(SystemExit, match="error: temperature must not be negative, got -1"):
        cli.main(["generate", str(finished), "--temperature", "-1"])
    with pytest.raises(SystemExit, match=r"error: .*config\.json"):
        cli.main(["generate", str(files)])
    with pytest.raises(SystemExit, match="in the configs folder of a recipe"):
        cli.main(["train", str(finished / "run.yaml")])
    with pytest.raises(SystemExit, match="2"):
        cli.main(["generate", str(finished), "--tempreature", "3"])


def test_the_tool_runs_the_recipe_of_a_configuration(files, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(cli.runpy, "run_path", lambda *a, **k: started.append((a, k, sys.argv)))
    monkeypatch.setattr(sys, "argv", ["seqlib"])
    config = RECIPE / "configs" / "cpu_tiny.yaml"
    cli.main(["train", str(config), "--learning_rate", "1e-3"])
    ((path,), options, argv) = started[0]
    assert path == str(RECIPE / "train.py")
    assert options == {"run_name": "__main__"}
    assert argv == [str(RECIPE / "train.py"), str(config), "--learning_rate", "1e-3"]
