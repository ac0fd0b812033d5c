# SPDX-License-Identifier: Apache-2.0
"""The Python in the pages runs as it stands."""

import re

import pytest
from pages import PAGES, name

from seqlib.data import byte_tokenizer
from seqlib.models import SeqLMConfig, SeqLMForCausalLM

SNIPPETS = [
    pytest.param(snippet, id=f"{name(page)} {number}")
    for page in PAGES
    for number, snippet in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL), 1
    )
]


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


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet, trained):
    exec(compile(snippet, "a page", "exec"), {})
