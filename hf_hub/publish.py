# SPDX-License-Identifier: Apache-2.0
"""Make a repository for the Hugging Face Hub out of a trained folder.

    python hf_hub/publish.py outputs/cpu_tiny published/cpu_tiny --license apache-2.0
    python hf_hub/publish.py outputs/cpu_tiny published/cpu_tiny --push me/cpu_tiny

The repository loads with `trust_remote_code=True` where seqlib is not installed.
"""

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

import seqlib.models
from seqlib.models.export import save_pretrained_with_code

logger = logging.getLogger(__name__)

# What a training run leaves beside the checkpoint and its card speaks of.
RECORDS = ("run.yaml", "metrics.json", "*.png")

WITHOUT_SEQLIB = """
## Without seqlib

The repository carries the model's code as flat files and needs what `requirements.txt` lists:

```python
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

On CPUs it runs faster with numba, on GPUs it needs Triton. Where seqlib is imported, seqlib's own
code runs instead.
"""


def build(
    trained: Path,
    folder: Path,
    *,
    name: str | None = None,
    license: str | None = None,
    language: str | None = None,
) -> ModelCard:
    """Write the repository of the model in `trained` into `folder`; returns its card.

    The card is the one that training left, with its measured results, under its new name.

    Args:
        name: how the card calls the model, such as "me/model"; the name of `folder` by default.
        license, language: for the card; a training run doesn't know them.

    Raises:
        ValueError: `trained` is no checkpoint of seqlib with a card, or `folder` is not empty.
        OSError: a damaged checkpoint.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} must be empty or new: it becomes the repository")
    model = _load(trained)
    card = _card(trained, model, name or folder.name)
    facts: Any = card.data
    if license is not None:
        facts.license = license
    if language is not None:
        facts.language = language
    tokenizer = None
    if (trained / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(trained)
    save_pretrained_with_code(model, folder, tokenizer)
    for pattern in RECORDS:
        for path in sorted(trained.glob(pattern)):
            shutil.copy(path, folder)
    card.save(folder / "README.md")
    return card


def push(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload `folder` as the model `repo_id`, made if it is new; returns its address."""
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id, folder_path=folder, commit_message="Upload model, code and card"
    )
    return str(url)


def _load(trained: Path) -> PreTrainedModel:
    if not (trained / "config.json").is_file():
        raise ValueError(f"{trained} must be a checkpoint folder, but has no config.json")
    architecture = (AutoConfig.from_pretrained(trained).architectures or [""])[0]
    if architecture not in seqlib.models.__all__:
        raise ValueError(f"{trained} must hold a model of seqlib, got {architecture!r}")
    return getattr(seqlib.models, architecture).from_pretrained(trained)


def _card(trained: Path, model: PreTrainedModel, name: str) -> ModelCard:
    path = trained / "README.md"
    if not path.is_file():
        raise ValueError(f"{trained} must hold the card of its training run, README.md")
    card = ModelCard.load(path)
    facts: Any = card.data
    old = facts.model_name or trained.name
    text = card.text.replace(f'"{old}"', f'"{name}"').replace(f"\n# {old}\n", f"\n# {name}\n")
    _, on, head = type(model).__name__.partition("For")
    auto = f"AutoModel{on}{head}"
    card.text = text.rstrip() + "\n" + WITHOUT_SEQLIB.format(auto=auto, name=name)
    facts.model_name = name.split("/")[-1]
    facts.tags = sorted({*(facts.tags or []), "custom_code"})
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("trained", type=Path, help="what a training run left")
    parser.add_argument("folder", type=Path, help="the repository to make, new or empty")
    parser.add_argument("--license", help="for the card, such as apache-2.0")
    parser.add_argument("--language", help="for the card, such as en")
    parser.add_argument("--push", metavar="REPO", help="upload it as this model, such as me/model")
    parser.add_argument("--private", action="store_true", help="a new REPO is private")
    chosen = parser.parse_args(arguments)
    try:
        build(
            chosen.trained,
            chosen.folder,
            name=chosen.push,
            license=chosen.license,
            language=chosen.language,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    logger.info("%s is ready", chosen.folder)
    if chosen.push is None:
        return
    try:
        logger.info("uploaded to %s", push(chosen.folder, chosen.push, private=chosen.private))
    except (ValueError, OSError) as error:
        parser.exit(
            1,
            f"not uploaded: {error}\n{chosen.folder} is ready; upload it later with "
            f"`hf upload {chosen.push} {chosen.folder}`\n",
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
