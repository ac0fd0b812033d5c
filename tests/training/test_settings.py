# SPDX-License-Identifier: Apache-2.0
"""Settings: the file first, the command line after, and nothing misread in silence."""

from dataclasses import dataclass, field

import pytest
import torch

from seqlib.training.arguments import TrainSettings
from seqlib.training.settings import as_mapping, parse_settings


@dataclass
class Shape:
    width: int = 8
    ratio: float = 0.5
    tied: bool = True
    kinds: list[str] | None = None
    options: dict | str | None = None
    files: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.options = as_mapping("options", self.options)


def parse(tmp_path, text, *words):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    return parse_settings([Shape], [str(config), *words])[0]


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    text = "width: 16\nratio: 1e-3\ntied: false\nkinds: [a, b]\noptions: {a: {x: 1}, b: 2}\n"
    got = parse(tmp_path, text, "--width", "32", "--files", "my/*.txt", "other")
    assert got == Shape(32, 1e-3, False, ["a", "b"], {"a": {"x": 1}, "b": 2}, ["my/*.txt", "other"])


def test_entries_of_a_mapping_are_set_by_dots_and_the_whole_by_json(tmp_path):
    text = "options: {a: {x: 1, y: 2}}\n"
    assert parse(tmp_path, text, "--options.a.x", "5").options == {"a": {"x": 5, "y": 2}}
    assert parse(tmp_path, text, "--options.a.x", "5e-4").options["a"]["x"] == 5e-4
    assert parse(tmp_path, "options: {x: -1E+3, y: 1.5e2, z: 1e}\n").options == {
        "x": -1e3, "y": 150.0, "z": "1e",
    }  # fmt: skip
    assert parse(tmp_path, text, "--options.b.c=true").options["b"] == {"c": True}
    assert parse(tmp_path, text, "--options", '{"z": 1}').options == {"z": 1}
    both = ["--options.a.x", "5", '--options={"z": 1}', "--options.y", "2"]
    assert parse(tmp_path, text, *both).options == {"z": 1, "y": 2}


def test_null_keeps_the_default(tmp_path):
    assert parse(tmp_path, "width: null\n").width == 8


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("widht: 16", [], "no setting 'widht'; did you mean 'width'"),
        ("width: 16", ["--widht", "3"], "no setting 'widht'; did you mean 'width'"),
        ("width: 16", ["--widht=3"], "no setting 'widht'; did you mean 'width'"),
        ("width: 16", ["--qqqqq", "3"], "no setting 'qqqqq'$"),
        ("width: 16", ["--wid", "3"], "no setting 'wid'"),
        ("width: 16", ["--opitons.a", "3"], "no setting 'opitons'; did you mean 'options'"),
        ("width: wide", [], "--width: invalid int value: 'wide'"),
        ("width: 1.5", [], "--width: invalid int value: '1.5'"),
        ("width: [1, 2]", [], r"width takes one value, got the list \[1, 2\]"),
        ("ratio: much", [], "--ratio: invalid float value: 'much'"),
        ("width: 16", ["--tied", "maybe"], "maybe"),
        ("options: 3", [], "options must be a mapping, got 3"),
        ("options: {a: 1}", ["--options", "{a:"], "options must be a JSON object"),
        ("width: 16", ["--options.a"], "--options.a needs a value"),
        ("width: 16", ["--width", "3", "stray"], "--name value, got 'stray'"),
        ("- 1", [], "must hold `name: value` lines, got list"),
        ("a: [", [], "is not YAML"),
    ],
)
def test_what_is_refused(tmp_path, text, words, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, text, *words)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00\x01"])
def test_an_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "absent.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"can't read the settings file .*absent\.yaml"):
        parse_settings([Shape], [str(path)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train_minutes=-1"], "train_minutes must not be negative, got -1"),
        (["--train_minutes", "1", "--max_steps", "5"], "exclude each other, got 1.0 and 5"),
        (["--train_minutes", "1", "--warmup_steps", "5"], "warmup_steps must be a part"),
        (["--expect_processes", "2"], "expect_processes is 2, but 1 started"),
        (["--fp16=true"], "fp16 must be false on a CPU"),
        (["--learning_rate=-1"], "learning_rate must be at least 0, got -1.0"),
        (["--per_device_train_batch_size=0"], "per_device_train_batch_size must be at least 1"),
        (["--gradient_accumulation_steps=0"], "gradient_accumulation_steps must be at least 1"),
        (["--push_to_hub=true", "--hub_strategy=checkpoint"], "hub_strategy must be 'end' or"),
        (["--learning_rte", "1"], "did you mean 'learning_rate'"),
    ],
)
def test_training_settings_that_are_refused(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        parse_settings([TrainSettings], [f"--output_dir={tmp_path}", "--use_cpu=true", *words])


def test_bf16_is_refused_where_it_is_slow(tmp_path, monkeypatch):
    words = [f"--output_dir={tmp_path}", "--use_cpu=true", "--bf16=true"]
    monkeypatch.setattr("seqlib.training.arguments.bf16_matmul_is_slow", lambda: True)
    with pytest.raises(ValueError, match="bf16 must be false on this CPU"):
        parse_settings([TrainSettings], words)
    monkeypatch.setattr("seqlib.training.arguments.bf16_matmul_is_slow", lambda: False)
    assert parse_settings([TrainSettings], words)[0].bf16


def test_no_minutes_means_steps(tmp_path):
    words = [f"--output_dir={tmp_path}", "--use_cpu=true", "--train_minutes=0", "--max_steps=5"]
    (args,) = parse_settings([TrainSettings], words)
    assert args.train_minutes is None
    assert args.max_steps == 5


def test_a_cpu_has_no_number(tmp_path):
    """accelerate calls the second rank's "cpu:1", where torch can't load an optimizer."""
    (args,) = parse_settings([TrainSettings], [f"--output_dir={tmp_path}", "--use_cpu=true"])
    args._setup_devices = torch.device("cpu:1")
    assert args.device == torch.device("cpu")
