# SPDX-License-Identifier: Apache-2.0
"""What a run on long sequences is built from: settings of data and model, and their objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seqlib.data.long_range import PAD_TOKEN, SequenceData, Sequences, load_sequences
from seqlib.models import SeqLMForSequenceClassification

from .model import ModelSettings, model_config


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class SequenceSettings:
    """Which sequences, and how many of them."""

    task: str = field(
        default="listops-s",
        metadata=_help(
            "listops, listops-s, pathfinder-32, pathfinder-64, pathfinder-128, digits or "
            "digits-permuted."
        ),
    )
    sizes: list[int] | None = field(
        default=None,
        metadata=_help("Of generated data: how many to train on, to validate on, to test on."),
    )
    generation_seed: int = field(default=0, metadata=_help("Of generated data."))


@dataclass
class ClassifierSettings(ModelSettings):
    """The architecture, of one mixer in all of its blocks or of several."""

    mixer: str | None = field(
        default=None,
        metadata=_help("One for all of num_hidden_layers blocks (1 by default), by name."),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.mixer is None) == (self.block_types is None):
            raise ValueError(
                "exactly one of mixer and block_types must be given, got "
                f"mixer={self.mixer!r} and block_types={self.block_types!r}"
            )
        if self.mixer is not None:
            self.block_types = [self.mixer] * (self.num_hidden_layers or 1)


@dataclass(frozen=True)
class LongRangeData:
    """A data set with the splits to train on, to watch while training, and to test on."""

    sequences: SequenceData

    @property
    def train(self) -> Sequences:
        return self.sequences["train"]

    @property
    def watched(self) -> str:
        """The split that is scored while training; nothing is chosen by it."""
        return "validation" if "validation" in self.sequences.splits else "test"

    @property
    def tested(self) -> str:
        return "test" if "test" in self.sequences.splits else "validation"

    def identity(self) -> Mapping[str, Any]:
        """What a record needs to tell this data from any other."""
        manifest = self.sequences.manifest
        return {"task": manifest["name"], "sha256": manifest["sha256"]}


def prepare_sequences(settings: SequenceSettings) -> LongRangeData:
    """The data of a task, made or read.

    Raises:
        ImportError: the package that carries the data is missing.
        ValueError: an unknown task, or data that can't be used.
    """
    return LongRangeData(
        load_sequences(settings.task, sizes=settings.sizes, seed=settings.generation_seed)
    )


def build_classifier(
    settings: ClassifierSettings, data: LongRangeData
) -> SeqLMForSequenceClassification:
    """A fresh model that answers once per sequence; draws from torch's global generator.

    Raises:
        ValueError: an architecture that `SeqLMConfig` refuses.
    """
    form = data.sequences.form
    inputs: dict[str, Any] = {"input_features": form.features}
    if form.vocab_size is not None:
        inputs = {"vocab_size": form.vocab_size, "pad_token_id": PAD_TOKEN}
    config = model_config(
        settings,
        num_labels=form.num_classes,
        max_position_embeddings=form.length,
        use_cache=False,  # there is nothing to go on with after the answer
        **inputs,
    )
    return SeqLMForSequenceClassification(config)
