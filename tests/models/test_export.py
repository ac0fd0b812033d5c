# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that carry their code: with the project, without it, and both in one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers.dynamic_module_utils as remote
from seqlib_kernels import use_backend
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from seqlib.models import SeqLMConfig, SeqLMForCausalLM, export
from seqlib.models.export import save_pretrained_with_code
from seqlib.models.flat_code import OPTIONAL, FlatCode

STRANGER = Path(__file__).with_name("without_seqlib.py")


@pytest.fixture(scope="module")
def model() -> SeqLMForCausalLM:
    torch.manual_seed(0)
    config = SeqLMConfig(
        vocab_size=16,
        hidden_size=16,
        block_types=["delta_net", "full_attention", "s4", "s5"],
        mixer_kwargs={
            "delta_net": {"num_heads": 2},
            "full_attention": {"num_heads": 2},
            "s4": {"d_state": 8},
            "s5": {"d_state": 8},
        },
        intermediate_size=24,
    )
    return SeqLMForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    letters = Tokenizer(models.WordLevel({c: i for i, c in enumerate("?abcdefg")}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?")


@pytest.fixture(scope="module")
def ids(tokenizer) -> torch.Tensor:
    return torch.tensor([tokenizer("abcabcab")["input_ids"]])


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "checkpoint"
    save_pretrained_with_code(model, folder, tokenizer)
    return folder


def test_a_process_without_the_project_loads_runs_saves_and_loads_again(
    model, folder, ids, tmp_path
):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", str(STRANGER), str(folder), str(tmp_path)],
        cwd=tmp_path, env=kept | offline, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with torch.no_grad(), use_backend("reference"):
        want = model(ids).logits
        generated = model.generate(ids, max_new_tokens=6, do_sample=False).tolist()
    difference = (torch.load(tmp_path / "logits.pt") - want).abs().max().item()
    assert difference < 1e-6  # the same operations: measured 0
    assert found["generated"] == found["generated without cache"] == generated
    assert found["saved differs by"] == 0
    assert found["config"] == "SeqLMConfig"
    assert found["own config class"]
    assert found["classes"] == [
        "SeqLMForCausalLM", "SeqLMForSequenceClassification",
        "SeqLMModel", "SeqLMForCausalLM", "SeqLMForTokenClassification",
    ]  # fmt: skip
    assert found["gradients"]
    assert "no kernels for device 'cpu' without numba" in done.stderr


def test_the_code_runs_beside_the_project_with_operators_of_its_own(
    model, folder, ids, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    shutil.copytree(folder, tmp_path / "copy")
    entry = "modeling_seqlib_lm.SeqLMForCausalLM"
    classes = [remote.get_class_from_dynamic_module(entry, f) for f in (folder, tmp_path / "copy")]
    assert len({*classes, SeqLMForCausalLM}) == 3
    carried = classes[0].from_pretrained(folder)
    with torch.no_grad():
        got = carried(ids).logits  # the CPU kernels of the copy, compiled from its own files
        with use_backend("reference"):
            want = model(ids).logits
    assert (got - want).abs().max() < 1e-5  # measured 1.2e-7


def test_where_the_project_is_imported_its_classes_win(folder, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded) is SeqLMForCausalLM
    loaded.save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_the_model_is_left_as_it_was(model, folder, tmp_path):
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    model.save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_no_file_demands_an_optional_package_or_the_project(folder):
    for path in folder.glob("*.py"):
        imports = set(remote.get_imports(path))
        assert not imports & {*OPTIONAL, "seqlib", "seqlib_kernels"}, path.name


def test_the_folder_says_what_it_needs_and_how_it_is_loaded(model, folder, tmp_path):
    requirements = (folder / "requirements.txt").read_text().split()
    names = {line.split(">")[0].split("<")[0] for line in requirements}
    assert {"torch", "transformers", "numba"} <= names
    assert not names & {"triton", "seqlib"}
    card = (folder / "README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained(" in card
    assert "trust_remote_code=True" in card
    (tmp_path / "README.md").write_text("written by hand")
    save_pretrained_with_code(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "written by hand"


def test_only_models_of_the_project_are_taken(tmp_path):
    with pytest.raises(TypeError, match="model must be a PreTrainedModel, got Linear"):
        save_pretrained_with_code(nn.Linear(2, 2), tmp_path / "a")

    class Stranger(SeqLMForCausalLM):
        __module__ = "transformers_modules.somewhere"

    small = SeqLMConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, intermediate_size=8)
    with pytest.raises(ValueError, match="a class of seqlib, got transformers_modules"):
        save_pretrained_with_code(Stranger(small), tmp_path / "a")

    class Unregistered(SeqLMForCausalLM):
        __module__ = "seqlib.models.lm.modeling"

    with pytest.raises(ValueError, match="an Auto class loads, got Unregistered"):
        save_pretrained_with_code(Unregistered(small), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_code_that_can_not_go_along_is_found_before_anything_is_written(
    model, tmp_path, monkeypatch
):
    def lost(_):
        return FlatCode({"lost": "", "seqlib_models_lm_modeling": "", "seqlib_models_lm_heads": ""})

    monkeypatch.setattr(export, "flatten", lost)
    with pytest.raises(ValueError, match="transformers would"):
        save_pretrained_with_code(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()
