# SPDX-License-Identifier: Apache-2.0
"""What a state-tracking run is built from: settings of task and model, and their objects."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seqlib.data.state_tracking import Task, TaskExamples, make_task
from seqlib.mixers import mixer_class
from seqlib.models import SeqLMForTokenClassification

from .arguments import TrainSettings
from .model import MixerSettings, model_config
from .settings import as_mapping


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class TaskSettings:
    """Which task, how long its sequences are, and how many there are.

    Names that start with `eval_` say what a trained model is tested on, so that another test
    does not make another run.
    """

    task: str = field(
        default="parity",
        metadata=_help("parity, modular_arithmetic, bracketed_arithmetic or word_problem."),
    )
    group: str | None = field(default=None, metadata=_help("Of the word problem: S5 by default."))
    subset: str | None = field(
        default=None, metadata=_help("Of the group: all by default, swaps or three_points.")
    )
    tokens_per_transition: int | None = field(
        default=None, metadata=_help("Of the word problem: 1 by default, more add fillers.")
    )
    multiplication: bool | None = field(
        default=None, metadata=_help("Let bracketed arithmetic multiply; off by default.")
    )
    train_lengths: list[int] = field(
        default_factory=lambda: [3, 40], metadata=_help("Shortest and longest to train on.")
    )
    train_examples: int | None = field(
        default=None, metadata=_help("Train on so many, again and again; by default on new ones.")
    )
    eval_lengths: list[int] = field(
        default_factory=lambda: [40, 256], metadata=_help("Shortest and longest to test on.")
    )
    eval_examples: int = field(default=8192, metadata=_help("How many to test on."))
    context: int = field(default=256, metadata=_help("No sequence may be longer."))


@dataclass
class TrackerSettings(MixerSettings):
    """The architecture, with one switch for the eigenvalues of all its mixers."""

    negative_eigenvalues: bool = field(
        default=True, metadata=_help("Eigenvalues in [-1, 1] instead of [0, 1].")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = as_mapping("mixer_kwargs", self.mixer_kwargs)
        for name in dict.fromkeys(self.block_types or ()):
            if "negative_eigenvalues" not in inspect.signature(mixer_class(name)).parameters:
                continue
            own = as_mapping(f"mixer_kwargs of {name}", options.get(name))
            own.setdefault("negative_eigenvalues", self.negative_eigenvalues)
            if own["negative_eigenvalues"] != self.negative_eigenvalues:
                raise ValueError(
                    f"negative_eigenvalues is {self.negative_eigenvalues}, but mixer_kwargs of "
                    f"{name} say {own['negative_eigenvalues']}: say it in one place"
                )
            options[name] = own
        self.mixer_kwargs = options


@dataclass(frozen=True)
class TaskData:
    """A task's examples for training and for testing."""

    task: Task
    train: TaskExamples
    test: TaskExamples

    def identity(self) -> Mapping[str, Any]:
        """What a record needs to tell this data from any other."""
        return {"task": self.task.identity, "seed": self.train.seed, "examples": len(self.train)}


def prepare_task(settings: TaskSettings, training: TrainSettings) -> TaskData:
    """The task and its examples, of which none is made yet.

    Raises:
        ValueError: an unknown task or group, an option of another task, lengths that the task
            does not have, or neither `train_examples` nor `max_steps`.
    """
    options = ("group", "subset", "tokens_per_transition", "multiplication")
    given = {name: getattr(settings, name) for name in options}
    task = make_task(settings.task, **{k: v for k, v in given.items() if v is not None})
    size = settings.train_examples
    if size is None:
        if training.max_steps <= 0:
            raise ValueError(
                "max_steps must be positive where every step has new examples, got "
                f"{training.max_steps}; or set train_examples"
            )
        accumulated = training.gradient_accumulation_steps * training.world_size
        size = training.max_steps * training.train_batch_size * accumulated
    train = task.lengths_between(settings.train_lengths, settings.context)
    test = task.lengths_between(settings.eval_lengths, settings.context)
    seed = training.seed
    return TaskData(
        task,
        TaskExamples(task, train, size, seed=seed, split="train"),
        TaskExamples(task, test, settings.eval_examples, seed=seed, split="test"),
    )


def build_tracker(
    settings: TrackerSettings, task: Task, context: int
) -> SeqLMForTokenClassification:
    """A fresh model that answers after every token; draws from torch's global generator.

    Raises:
        ValueError: an architecture that `SeqLMConfig` refuses.
    """
    config = model_config(
        settings,
        vocab_size=task.vocab_size,
        num_labels=task.num_classes,
        max_position_embeddings=context,
    )
    return SeqLMForTokenClassification(config)
