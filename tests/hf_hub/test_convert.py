# SPDX-License-Identifier: Apache-2.0
"""Conversion as a command on folders: what goes along, what stops it, what is left behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Mamba2Config, Mamba2ForCausalLM

from hf_hub import convert
from seqlib.models import SeqLMForCausalLM
from seqlib.models.convert import ConversionError, checkpoint, convert_checkpoint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory) -> dict[str, Path]:
    """One small model of theirs with a tokenizer, in one file and in several."""
    torch.manual_seed(0)
    config = Mamba2Config(
        vocab_size=16, hidden_size=8, num_hidden_layers=2, state_size=4, num_heads=2, head_dim=8,
        n_groups=1, tie_word_embeddings=True, eos_token_id=[2, 3],
    )  # fmt: skip
    model = Mamba2ForCausalLM(config)
    model.generation_config.temperature = 0.5
    model.generation_config.do_sample = True
    folders = {name: tmp_path_factory.mktemp(name) for name in ("whole", "sharded")}
    for folder in folders.values():
        model.save_pretrained(
            folder, max_shard_size="50GB" if folder == folders["whole"] else "2KB"
        )
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(trained / file, folder)
        (folder / "optimizer.pt").write_text("not for others")
    return folders


@pytest.fixture
def source(saved, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(saved["whole"], tmp_path / "source")


def edited(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_command_takes_along_what_means_the_same(saved, tmp_path, capsys):
    convert.main([str(saved["whole"]), str(tmp_path / "deep" / "ours")])
    folder = tmp_path / "deep" / "ours"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", WEIGHTS, "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["ours"]
    model = SeqLMForCausalLM.from_pretrained(folder)
    assert model.generation_config.temperature == 0.5
    assert model.config.eos_token_id == [2, 3]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert AutoTokenizer.from_pretrained(folder).get_vocab()["a"] == 1
    with pytest.raises(SystemExit):
        convert.main([str(saved["whole"]), str(folder)])
    assert "must be new or empty: nothing is overwritten" in capsys.readouterr().err


def test_several_files_stay_several(saved, tmp_path):
    folder = tmp_path / "ours"
    folder.mkdir()  # empty
    convert_checkpoint(saved["sharded"], folder)
    names = {path.name for path in folder.glob("*.safetensors")}
    assert names == {path.name for path in saved["sharded"].glob("*.safetensors")}
    assert len(names) > 2
    model, report = SeqLMForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    convert_checkpoint(saved["whole"], tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / WEIGHTS)
    state = model.state_dict()
    assert all(torch.equal(state[name], x) for name, x in whole.items())
    index = json.loads((folder / INDEX).read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in whole.values())


def test_the_first_name_of_the_embedding_is_understood(source, tmp_path):
    tensors = load_file(source / WEIGHTS)
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, source / WEIGHTS)
    convert_checkpoint(source, tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / WEIGHTS)["model.embed_tokens.weight"]
    assert torch.equal(ours, tensors["backbone.embedding.weight"])


def test_what_earlier_conversions_left_in_a_configuration_is_passed_over(source, tmp_path):
    left = {"d_inner": 16, "d_model": 8, "n_layer": 2, "fused_add_norm": True, "ssm_cfg": {}}
    left |= {"rms_norm": True, "norm_before_gate": True, "pad_vocab_size_multiple": 8}
    convert_checkpoint(source, tmp_path / "before")
    edited(source, **left, torch_dtype="float32", _name_or_path="somewhere")
    convert_checkpoint(source, tmp_path / "after")
    before, after = (
        json.loads((tmp_path / f / "config.json").read_text()) for f in ("before", "after")
    )
    assert after == before | {"dtype": "float32"}


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_head_that_was_saved_must_be_the_embedding(source, tmp_path, same):
    tensors = load_file(source / WEIGHTS)
    tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"] + (0 if same else 1)
    save_file(tensors, source / WEIGHTS)
    if same:
        convert_checkpoint(source, tmp_path / "ours")
        assert "lm_head.weight" not in load_file(tmp_path / "ours" / WEIGHTS)
    else:
        with pytest.raises(ConversionError, match=r"lm_head\.weight must equal backbone\.embeddin"):
            convert_checkpoint(source, tmp_path / "ours")


NORM = "backbone.layers.1.norm.weight"
TENSORS = {
    "missing": (lambda t: t.pop(NORM), f"the checkpoint lacks {NORM}$"),
    "superfluous": (
        lambda t: t.update({f"backbone.extra.{i}": torch.ones(1) for i in range(7)}),
        r"must not hold backbone\.extra\.0, .*backbone\.extra\.4 and 2 more$",
    ),
    "shape": (
        lambda t: t.update({NORM: torch.ones(9)}),
        rf"{NORM} must have shape \(8,\) by the configuration, got \(9,\)",
    ),
    "dtype": (
        lambda t: t.update({NORM: torch.ones(8, dtype=torch.int8)}),
        f"{NORM} must have one of the dtypes BF16, F16, F32, F64, got I8",
    ),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_named(source, tmp_path, kind):
    tensors = load_file(source / WEIGHTS)
    change, message = TENSORS[kind]
    change(tensors)
    save_file(tensors, source / WEIGHTS)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(source, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


CONFIGS = [
    ({"time_step_limit": [0.0, 0.5]}, r"time_step_limit must be \[0.0, inf\] .* got \[0.0, 0.5\]"),
    ({"hidden_act": "gelu"}, "hidden_act must be 'silu' or 'swish' .* got 'gelu'"),
    ({"num_heads": 3}, r"num_heads must be hidden_size \* expand / head_dim = 16 / 8, got 3"),
    ({"n_groups": 3}, "n_groups must divide the number of heads, 2, got 3"),
    ({"sliding_window": 8}, "sliding_window = 8 is no known field of a 'mamba2' checkpoint"),
    ({"tie_word_embeddings": False}, r"the checkpoint lacks lm_head\.weight"),
    ({"use_conv_bias": False}, r"must not hold backbone\.layers\.0\.mixer\.conv1d\.bias"),
    ({"num_hidden_layers": 3}, r"lacks backbone\.layers\.2\.mixer\.A_log, .* and 4 more"),
    ({"model_type": None}, "no conversion of model_type None; known: delta_net, gated_deltanet"),
    ({"model_type": "llama"}, "no conversion of model_type 'llama'"),
    ({"model_type": ["mamba2"]}, r"no conversion of model_type \['mamba2'\]"),
    ({"use_bias": "false"}, "use_bias must be true or false, got 'false'"),
    ({"num_hidden_layers": None}, "num_hidden_layers must be a whole number, got None"),
    ({"dtype": "float8"}, "dtype must be null or one of float64, .* got 'float8'"),
    ({"dtype": [1]}, r"dtype must be null or one of float64, .* got \[1\]"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_configurations_that_do_not_fit_are_refused(source, tmp_path, changes, message):
    edited(source, **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(source, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


class TestFiles:
    def test_weights_in_another_format(self, source, tmp_path):
        (source / WEIGHTS).rename(source / "pytorch_model.bin")
        with pytest.raises(FileNotFoundError, match=r"must hold model\.safetensors, or model\.saf"):
            convert_checkpoint(source, tmp_path / "ours")

    def test_a_damaged_file(self, source, tmp_path):
        path = source / WEIGHTS
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(OSError, match=r"model\.safetensors is damaged or incomplete"):
            convert_checkpoint(source, tmp_path / "ours")

    def test_a_folder_without_a_configuration(self, source, tmp_path):
        (source / "config.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"but has no config\.json"):
            convert_checkpoint(source, tmp_path / "ours")

    @pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "hold an object")])
    def test_a_configuration_that_is_none(self, source, tmp_path, text, message):
        (source / "config.json").write_text(text)
        with pytest.raises(ConversionError, match=message):
            convert_checkpoint(source, tmp_path / "ours")

    @pytest.mark.parametrize("name", ["gone.safetensors", "../source/model.safetensors"])
    def test_an_index_that_names_other_files(self, source, tmp_path, name):
        (source / WEIGHTS).rename(source / "a.safetensors")
        (source / INDEX).write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": name}}))
        with pytest.raises(FileNotFoundError, match="which is not beside it"):
            convert_checkpoint(source, tmp_path / "ours")

    def test_an_index_that_is_none(self, source, tmp_path):
        (source / WEIGHTS).unlink()
        (source / INDEX).write_text('{"weight_map": 3}')
        with pytest.raises(ConversionError, match="is no index of weights"):
            convert_checkpoint(source, tmp_path / "ours")

    def test_a_tensor_in_two_files(self, source, tmp_path):
        shutil.copy(source / WEIGHTS, source / "b.safetensors")
        (source / WEIGHTS).rename(source / "a.safetensors")
        names = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
        (source / INDEX).write_text(json.dumps(names))
        with pytest.raises(ConversionError, match=r"is in a\.safetensors and again in b\.safeten"):
            convert_checkpoint(source, tmp_path / "ours")

    def test_a_write_that_fails_leaves_nothing(self, source, tmp_path, monkeypatch):
        def full_disk(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint.shutil, "copyfile", full_disk)
        with pytest.raises(OSError, match="No space left"):
            convert_checkpoint(source, tmp_path / "ours")
        assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.slow
def test_a_killed_conversion_leaves_all_or_nothing_and_the_next_one_succeeds(saved, tmp_path):
    source = saved["sharded"]
    script = Path(__file__).with_name("killed_conversions.py")
    done = subprocess.run(
        [sys.executable, str(script), str(source), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    def content(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    killed = int(done.stdout)
    wanted = content(tmp_path / str(killed + 1) / "ours")
    assert killed > 2 * len(wanted)  # files are made, then synced
    left = []
    for number in range(1, killed + 1):
        folder = tmp_path / str(number) / "ours"
        left.append(folder.exists())
        if folder.exists():
            assert content(folder) == wanted
        else:
            convert_checkpoint(source, folder)
            assert content(folder) == wanted
        assert [path.name for path in folder.parent.iterdir()] == ["ours"]
    assert not left[0]
    assert left[-1]  # killed before the folder above was synced
