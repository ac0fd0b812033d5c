# SPDX-License-Identifier: Apache-2.0
"""Repositories for the Hub: what they hold and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled
from seqlib_kernels import use_backend

from hf_hub import publish
from seqlib.models import SeqLMForCausalLM


@pytest.fixture(scope="module")
def repository(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "model"
    publish.main([str(trained), str(folder), "--license", "apache-2.0", "--language", "en"])
    return folder


def test_the_card_keeps_the_results_and_gets_its_name(repository, result):
    card = ModelCard.load(repository / "README.md")
    assert card.data.model_name == "model"
    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert card.data.tags == ["custom_code", "seqlib"]
    (kept,) = card.data.eval_results
    assert kept.is_equal_except_value(result)
    assert kept.metric_value == 1.2345
    assert card.text.startswith("\n# model\n") or "# model\n" in card.text
    assert "| this one | 1.2345 |" in card.text
    assert '"trained"' not in card.text
    assert 'AutoModelForCausalLM.from_pretrained("model", trust_remote_code=True)' in card.text


def test_the_repository_holds_code_weights_tokenizer_and_record(repository):
    names = {path.name for path in repository.iterdir()}
    assert {
        "config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
        "modeling_seqlib_lm.py", "requirements.txt", "README.md", "run.yaml", "metrics.json",
        "loss.png",
    } <= names  # fmt: skip
    assert "optimizer.pt" not in names
    assert "auto_map" in json.loads((repository / "config.json").read_text())


def test_the_weights_are_those_that_were_trained(trained, repository):
    ids = torch.arange(8)[None]
    with torch.no_grad(), use_backend("reference"):
        a, b = (SeqLMForCausalLM.from_pretrained(f)(ids).logits for f in (trained, repository))
    assert torch.equal(a, b)


def test_what_can_not_be_published_is_refused(trained, repository, tmp_path, capsys):
    with pytest.raises(ValueError, match="must be empty or new"):
        publish.build(trained, repository)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        publish.build(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}'
    )
    with pytest.raises(ValueError, match="a model of seqlib, got 'GPT2LMHeadModel'"):
        publish.build(tmp_path, tmp_path / "out")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    with pytest.raises(ValueError, match="the card of its training run"):
        publish.build(tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit):
        publish.main([str(tmp_path), str(tmp_path / "out")])
    assert "the card of its training run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_upload_that_fails_leaves_the_repository_and_says_how_to_go_on(
    trained, tmp_path, monkeypatch, capsys
):
    def offline(*_, **__):
        raise OfflineModeIsEnabled("offline mode is enabled")

    monkeypatch.setattr(publish.HfApi, "create_repo", offline)
    folder = tmp_path / "out"
    with pytest.raises(SystemExit):
        publish.main([str(trained), str(folder), "--push", "me/model"])
    said = capsys.readouterr().err
    assert "not uploaded: offline mode is enabled" in said
    assert f"`hf upload me/model {folder}`" in said
    assert (folder / "model.safetensors").is_file()
