# SPDX-License-Identifier: Apache-2.0
"""What a finished run leaves for people: metrics, a loss curve, a model card, a sample of text."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from seqlib.evaluation import Score, format_table

METRICS_FILE = "metrics.json"

CARD = """---
{header}
---

# {name}

A sequence model of {parameters:,} parameters with the blocks {blocks}, trained with seqlib on
{train_text}.

Held-out text, in bits per byte (lower is better):

{table}

{protocol}

```python
import seqlib
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

`run.yaml` holds every setting, the commit and the versions it was made with; `metrics.json` holds
the loss at every logged step.
"""


def write_metrics(folder: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json`, whole or not at all."""
    path = Path(folder) / METRICS_FILE
    draft = path.with_name(f".{METRICS_FILE}")
    draft.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)


def write_card(
    folder: str | Path,
    model: PreTrainedModel,
    scores: Sequence[Score],
    own: Score,
    *,
    train_text: str,
    data_name: str,
    protocol: str,
) -> None:
    """Write the model card with its comparison table.

    Args:
        scores: every line of the table, `own` among them.
        own: the line of this model, which becomes the card's machine-readable result.
        train_text: the training text in words.
        data_name: the corpus by name.
        protocol: how held-out text was scored.
    """
    folder = Path(folder)
    result = EvalResult(
        task_type="text-generation",
        dataset_type=data_name,
        dataset_name=data_name,
        metric_type="bits_per_byte",
        metric_value=round(own.bits_per_byte, 4),
    )
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["seqlib", model.config.model_type],
        model_name=folder.name,
        eval_results=[result],
    )
    ModelCard(
        CARD.format(
            header=header.to_yaml(),
            name=folder.name,
            parameters=model.num_parameters(),
            blocks=", ".join(model.config.block_types),
            train_text=train_text,
            table=format_table(scores),
            protocol=f"Protocol: {protocol}.",
        ),
        ignore_metadata_errors=False,
    ).save(folder / "README.md")


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    max_new_tokens: int,
    *,
    temperature: float = 0.8,
    seed: int = 0,
) -> str:
    """`prompt` and what the model writes after it; an empty prompt starts a new document.

    Draws from torch's global generator, seeded with `seed` inside and left as it was.

    Raises:
        ValueError: a temperature below zero; zero always takes the likeliest.
    """
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    ids = tokenizer(prompt)["input_ids"] or [tokenizer.eos_token_id]
    inputs = torch.tensor([ids], device=model.device)
    generate: Any = model.generate
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else None,
        )
    return str(tokenizer.decode(out[0], skip_special_tokens=True))
