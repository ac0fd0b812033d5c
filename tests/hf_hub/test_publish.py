# SPDX-License-Identifier: Apache-2.0
"""Repositories for the Hub: what they hold, and the way there and back over a local server."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from seqlib_kernels import use_backend
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_hub import publish
from seqlib.models import SeqLMConfig, SeqLMForCausalLM

RESULT = EvalResult(
    task_type="text-generation",
    dataset_type="corpus",
    dataset_name="corpus",
    metric_type="bits_per_byte",
    metric_value=1.2345,
)
CARD = """---
{header}
---

# trained

| model | bits per byte |
|---|---|
| this one | 1.2345 |

model = AutoModelForCausalLM.from_pretrained("trained")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder as a training run leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    torch.manual_seed(0)
    config = SeqLMConfig(
        vocab_size=16,
        hidden_size=16,
        block_types=["delta_net", "full_attention"],
        mixer_kwargs={"delta_net": {"num_heads": 2}, "full_attention": {"num_heads": 2}},
        intermediate_size=24,
    )
    SeqLMForCausalLM(config).save_pretrained(folder)
    letters = Tokenizer(models.WordLevel({c: i for i, c in enumerate("?abcdefg")}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?").save_pretrained(folder)
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["seqlib"],
        model_name="trained",
        eval_results=[RESULT],
    )
    ModelCard(CARD.format(header=header.to_yaml())).save(folder / "README.md")
    for name in ("run.yaml", "metrics.json", "loss.png", "optimizer.pt"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def repository(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "model"
    publish.main([str(trained), str(folder), "--license", "apache-2.0", "--language", "en"])
    return folder


def test_the_card_keeps_the_results_and_gets_its_name(repository):
    card = ModelCard.load(repository / "README.md")
    assert card.data.model_name == "model"
    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert card.data.tags == ["custom_code", "seqlib"]
    (result,) = card.data.eval_results
    assert result.is_equal_except_value(RESULT)
    assert result.metric_value == 1.2345
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
