# SPDX-License-Identifier: Apache-2.0
"""A folder as a training run leaves it."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seqlib.models import SeqLMConfig, SeqLMForCausalLM

CARD = """---
{header}
---

# trained

| model | bits per byte |
|---|---|
| this one | 1.2345 |

model = AutoModelForCausalLM.from_pretrained("trained")
"""


@pytest.fixture(scope="session")
def result() -> EvalResult:
    """What training measured."""
    return EvalResult(
        task_type="text-generation",
        dataset_type="corpus",
        dataset_name="corpus",
        metric_type="bits_per_byte",
        metric_value=1.2345,
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory, result) -> Path:
    """A small model with its tokenizer, card and records."""
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
        eval_results=[result],
    )
    ModelCard(CARD.format(header=header.to_yaml())).save(folder / "README.md")
    for name in ("run.yaml", "metrics.json", "loss.png", "optimizer.pt"):
        (folder / name).write_text("{}")
    return folder
