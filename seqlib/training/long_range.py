# SPDX-License-Identifier: Apache-2.0
"""What a run on long sequences is built from: settings of data and model, and their objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seqlib.data.long_range import PAD_TOKEN, Columns, SequenceData, Sequences, load_sequences
from seqlib.models import SeqLMForSequenceClassification

from .model import MixerSettings, model_config


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class SequenceSettings:
    """Which sequences, and how many of them."""

    task: str | None = field(
        default=None,
        metadata=_help(
            "listops, listops-s, pathfinder-32, pathfinder-64, pathfinder-128, digits or "
            "digits-permuted; or data of your own."
        ),
    )
    sizes: list[int] | None = field(
        default=None,
        metadata=_help("Of generated data: how many to train on, to validate on, to test on."),
    )
    generation_seed: int = field(default=0, metadata=_help("Of generated data."))
    train_files: list[str] | None = field(
        default=None,
        metadata=_help("JSON lines, npz files or folders of images by class, to train on."),
    )
    validation_files: list[str] | None = field(
        default=None, metadata=_help("Held-out files; a tenth of train_files when not given.")
    )
    test_files: list[str] | None = field(
        default=None, metadata=_help("Files for the test; the held-out ones when not given.")
    )
    dataset_name: str | None = field(
        default=None, metadata=_help("A data set of the Hub, or a folder that `datasets` loads.")
    )
    dataset_config: str | None = field(default=None, metadata=_help("Its configuration."))
    input_columns: list[str] = field(
        default_factory=lambda: ["text"],
        metadata=_help("Where records hold the sequence; two names for tasks about pairs."),
    )
    label_column: str = field(default="label", metadata=_help("Where they hold the label."))
    max_length: int | None = field(default=None, metadata=_help("Cut the user's sequences there."))
    image_mode: str = field(
        default="L", metadata=_help("L: one number for a pixel of the user's images. RGB: three.")
    )


@dataclass
class ClassifierSettings(MixerSettings):
    """The architecture, and where its answer is read."""

    pooling: str = field(
        default="mean", metadata=_help("Answer from the mean of all steps, or from the last.")
    )


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
    columns = Columns(
        inputs=settings.input_columns,
        label=settings.label_column,
        max_length=settings.max_length,
        image_mode=settings.image_mode,
    )
    data = load_sequences(
        settings.task,
        sizes=settings.sizes,
        seed=settings.generation_seed,
        train_files=settings.train_files,
        validation_files=settings.validation_files,
        test_files=settings.test_files,
        dataset_name=settings.dataset_name,
        dataset_config=settings.dataset_config,
        columns=columns,
    )
    return LongRangeData(data)


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
        problem_type="single_label_classification",  # else it is found out by the first step
        pairs=form.pairs,
        max_position_embeddings=form.length,
        use_cache=False,  # there is nothing to go on with after the answer
        **inputs,
    )
    return SeqLMForSequenceClassification(config)
