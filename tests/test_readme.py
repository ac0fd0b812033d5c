# SPDX-License-Identifier: Apache-2.0
"""The Python in the README runs as it stands, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from seqlib.data import byte_tokenizer
from seqlib.models import SeqLMConfig, SeqLMForCausalLM

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A working directory that holds what `make pretrain` would have left in it."""
    folder = tmp_path / "outputs" / "language_pretraining"
    tokenizer = byte_tokenizer()
    config = SeqLMConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        block_types=["gated_delta_net"],
        mixer_kwargs={"gated_delta_net": {"num_heads": 2, "head_dim": 8}},
        pad_token_id=tokenizer.pad_token_id,
    )
    SeqLMForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_snippet_runs(snippet, trained):
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_link_leads_somewhere(target):
    assert (ROOT / target).exists()
