# SPDX-License-Identifier: Apache-2.0
"""What a language-model run is built from: settings of its text, and the objects they mean."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from seqlib.data import (
    Corpus,
    PackedDataset,
    byte_tokenizer,
    load_corpus,
    pack_documents,
    train_tokenizer,
)
from seqlib.data.sampling import shuffled_prefix
from seqlib.models import SeqLMConfig, SeqLMForCausalLM

from .model import ModelSettings, model_config

TOKENIZERS = ("bpe", "unigram", "bytes")


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class DataSettings:
    """Which text, and how it becomes tokens."""

    corpus: str | None = field(
        default=None, metadata=_help("A built-in corpus; pystdlib unless text is given.")
    )
    train_files: list[str] | None = field(
        default=None, metadata=_help("Paths, globs or folders of text files to train on.")
    )
    validation_files: list[str] | None = field(
        default=None, metadata=_help("Held-out files; a part of train_files when not given.")
    )
    dataset_name: str | None = field(
        default=None, metadata=_help("A data set of the Hub, or a folder that `datasets` loads.")
    )
    dataset_config: str | None = field(default=None, metadata=_help("Its configuration."))
    text_column: str = field(default="text", metadata=_help("Where records hold their text."))
    fetch: bool = field(default=False, metadata=_help("Let debdocs download its packages."))
    tokenizer: str = field(
        default="bpe",
        metadata=_help("Train 'bpe' or 'unigram' pieces, use 'bytes', or load a folder or name."),
    )
    vocab_size: int = field(default=4096, metadata=_help("Tokens of a trained tokenizer."))
    sequence_length: int = field(default=512, metadata=_help("Tokens per training window."))

    def __post_init__(self) -> None:
        if not (self.corpus or self.train_files or self.dataset_name):
            self.corpus = "pystdlib"


@dataclass(frozen=True)
class TextData:
    """A corpus as a language model sees it."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast
    train: PackedDataset

    @property
    def bytes_per_token(self) -> float:
        return self.train.tokens.num_bytes / self.train.tokens.num_tokens

    def identity(self) -> Mapping[str, Any]:
        """What a record needs to tell this text from any other."""
        packed = self.train.tokens
        return {
            "sha256": self.corpus.sha256,
            "train_bytes": packed.num_bytes,
            "train_tokens": packed.num_tokens,
            "packed_as": packed.path.parent.name,
        }


def prepare_text(settings: DataSettings) -> TextData:
    """Load the corpus, train or load the tokenizer, and pack the training text.

    Everything is cached and safe to be asked for by several processes at once.

    Raises:
        ValueError: text or a vocabulary that can't be used; says what and why.
    """
    corpus = load_corpus(
        settings.corpus,
        train_files=settings.train_files,
        validation_files=settings.validation_files,
        dataset_name=settings.dataset_name,
        dataset_config=settings.dataset_config,
        text_column=settings.text_column,
        fetch=settings.fetch,
    )
    tokenizer = _tokenizer(settings, corpus)
    packed = pack_documents(corpus["train"], tokenizer)
    return TextData(corpus, tokenizer, PackedDataset(packed, settings.sequence_length))


def build_model(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerFast, sequence_length: int
) -> SeqLMForCausalLM:
    """A fresh model for a tokenizer; draws its weights from torch's global generator.

    Raises:
        ValueError: an architecture that `SeqLMConfig` refuses.
    """
    special = ("pad_token_id", "bos_token_id", "eos_token_id")
    config = model_config(
        settings,
        vocab_size=len(tokenizer),
        max_position_embeddings=sequence_length,
        **{name: getattr(tokenizer, name) for name in special},
    )
    return SeqLMForCausalLM(config)


def _tokenizer(settings: DataSettings, corpus: Corpus) -> PreTrainedTokenizerFast:
    if settings.tokenizer == "bytes":
        return byte_tokenizer()
    if settings.tokenizer in ("bpe", "unigram"):
        documents = shuffled_prefix(corpus["train"])
        return train_tokenizer(documents, settings.vocab_size, settings.tokenizer)
    near = difflib.get_close_matches(settings.tokenizer, TOKENIZERS, n=1)
    if near:  # before the Hub is asked for a name that was meant otherwise
        raise ValueError(
            f"tokenizer must be one of {', '.join(TOKENIZERS)}, a folder or a name on the Hub, "
            f"got {settings.tokenizer!r}; did you mean {near[0]!r}?"
        )
    try:
        return AutoTokenizer.from_pretrained(settings.tokenizer)
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer {settings.tokenizer!r} can't be loaded: {error}") from error


def transformer_like(config: SeqLMConfig) -> SeqLMConfig:
    """The same stack with attention in every block, its MLPs widened or narrowed to equal size."""
    attention = SeqLMConfig.from_dict(
        {
            **config.to_dict(),
            "block_types": ["full_attention"] * len(config.block_types or ()),
            "mixer_kwargs": {"full_attention": {"num_heads": max(1, config.hidden_size // 64)}},
        }
    )
    rows = 3 * config.hidden_size * len(config.block_types or ())  # weights per unit of MLP width
    difference = count_parameters(config) - count_parameters(attention)
    width = (attention.intermediate_size or 0) + difference / rows
    attention.intermediate_size = max(16, 16 * round(width / 16))
    return attention


def count_parameters(config: SeqLMConfig) -> int:
    """How many weights a model of this configuration trains, without making them."""
    with torch.device("meta"):
        return SeqLMForCausalLM(config).num_parameters()
