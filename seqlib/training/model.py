# SPDX-License-Identifier: Apache-2.0
"""The architecture as settings of a run, and the configuration they mean."""

from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from seqlib.models import SeqLMConfig

from .settings import as_mapping


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class ModelSettings:
    """The architecture: the fields of `SeqLMConfig`, checked by it."""

    hidden_size: int = field(default=256, metadata=_help("Width of the residual stream."))
    num_hidden_layers: int | None = field(
        default=None, metadata=_help("Number of blocks; the length of block_types.")
    )
    block_types: list[str] | None = field(
        default=None, metadata=_help("The mixer of each block by name; all delta_net by default.")
    )
    mixer_kwargs: dict | str | None = field(
        default=None, metadata=_help('Options by mixer: \'{"delta_net": {"num_heads": 2}}\'.')
    )
    intermediate_size: int | None = field(
        default=None, metadata=_help("Inner width of the MLPs; 8/3 of hidden_size by default.")
    )
    norm_type: str = field(
        default="rms", metadata=_help("Norms between blocks: rms, layer or batch.")
    )
    norm_position: str = field(
        default="pre", metadata=_help("pre: in front of mixers and MLPs; post: behind the sums.")
    )
    layer_norm_eps: float = field(default=1e-6, metadata=_help("Of layer norms."))
    batch_norm_momentum: float = field(
        default=0.1, metadata=_help("Weight of a new batch in running averages: 1 - decay.")
    )
    initializer_range: float = field(default=0.02, metadata=_help("Scale of fresh weights."))
    tie_word_embeddings: bool = field(
        default=False, metadata=_help("Use the embedding as output layer.")
    )

    def __post_init__(self) -> None:
        self.mixer_kwargs = as_mapping("mixer_kwargs", self.mixer_kwargs)


@dataclass
class MixerSettings(ModelSettings):
    """The architecture, with one switch for the mixers of all blocks."""

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


def model_config(settings: ModelSettings, **fields: Any) -> SeqLMConfig:
    """The configuration that settings and `fields` (of the data, mostly) describe.

    Settings that a recipe adds to `ModelSettings` count if the configuration has a field of that
    name.

    Raises:
        ValueError: an architecture that `SeqLMConfig` refuses.
    """
    names = {f.name for f in dataclass_fields(SeqLMConfig)}
    given = {f.name: getattr(settings, f.name) for f in dataclass_fields(settings)}
    given = {name: value for name, value in given.items() if name in names}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return SeqLMConfig(**given | fields)
    except StrictDataclassError as error:  # wraps what the configuration itself raised
        raise ValueError(str(error.__cause__ or error)) from error
