# SPDX-License-Identifier: Apache-2.0
"""The configuration of the language model."""

import inspect
from dataclasses import fields
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ...layers.batch_norm import BatchNorm
from ...layers.mlp import swiglu_width
from ...layers.norm import LayerNorm, RMSNorm
from ...mixers import mixer_class
from ...mixers.checks import check_kinds
from ...mixers.names import unknown_name
from ..keywords import check_keywords

CHOICES = {
    "norm_type": ("rms", "layer", "batch"),
    "norm_position": ("pre", "post"),
    "pooling": ("last", "mean"),
}


@strict
class SeqLMConfig(PreTrainedConfig):
    """What a `SeqLMModel` is made of.

    Args:
        vocab_size: number of token ids; not used with `input_features`.
        input_features: F, for steps of F real numbers (pixels, samples) in place of tokens.
        hidden_size: D, the width of the residual stream.
        num_hidden_layers: number of blocks; the length of `block_types`, or 24.
        block_types: the mixer of each block by name (`seqlib.mixers.MIXERS`); by default every
            one is "delta_net".
        mixer_kwargs: options by mixer name, such as {"delta_net": {"num_heads": 4}}.
        intermediate_size: inner width of the MLPs; 8/3 D rounded up to a multiple of 256. With 0
            a block is a mixer alone, as in Mamba.
        norm_type: of the norms between blocks: "rms", "layer" or "batch"; mixers have their own.
        norm_position: "pre": in front of mixer and MLP, and behind the last block; "post": behind
            each sum with the residual stream.
        rms_norm_eps, layer_norm_eps, batch_norm_eps: added to what the norms divide by.
        batch_norm_momentum: weight of a new batch in the running averages.
        initializer_range: standard deviation of fresh projections and embeddings.
        tie_word_embeddings: the output layer is the embedding.
        use_cache: return states unless a call says otherwise; by default True, but where a mixer
            is bidirectional.
        pad_token_id, bos_token_id, eos_token_id: special tokens, where there are any.
        max_position_embeddings: the length the model was trained on; nothing is limited by it.
        pooling: what a label of a sequence is read from: its "last" token, or the "mean" of all.
        pairs: a label is about two sequences.

    Raises:
        ValueError: an unknown keyword, mixer or option (the message names the nearest known
            one), a value out of range, or a configuration of another architecture.
        StrictDataclassFieldValidationError: a value of the wrong type.
    """

    model_type = "seqlib_lm"

    vocab_size: int = 32000
    input_features: int | None = None
    hidden_size: int = 1024
    num_hidden_layers: int | None = None
    block_types: list[str] | None = None
    mixer_kwargs: dict[str, dict[str, Any]] | None = None
    intermediate_size: int | None = None
    norm_type: str = "rms"
    norm_position: str = "pre"
    rms_norm_eps: float | int = 1e-6
    layer_norm_eps: float | int = 1e-6
    batch_norm_eps: float | int = 1e-5
    batch_norm_momentum: float | int = 0.1
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = False
    use_cache: bool | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    max_position_embeddings: int = 2048
    pooling: str = "last"
    pairs: bool = False

    def __post_init__(self, **kwargs):
        if self._auto_class is None:  # loaded without the code beside it, so not saved with any
            kwargs.pop("auto_map", None)
        model_type = kwargs.pop("model_type", self.model_type)
        if model_type != self.model_type:
            raise ValueError(
                f"this is the configuration of a {model_type!r} model, not of {self.model_type!r}"
            )
        check_keywords(kwargs, [field.name for field in fields(SeqLMConfig)])
        if self.num_hidden_layers is None:
            self.num_hidden_layers = 24 if self.block_types is None else len(self.block_types)
        if self.block_types is None:
            self.block_types = ["delta_net"] * self.num_hidden_layers
        if self.mixer_kwargs is None:
            self.mixer_kwargs = {}
        if self.intermediate_size is None:
            self.intermediate_size = swiglu_width(self.hidden_size)
        if self.use_cache is None:
            self.use_cache = not self.bidirectional
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers, which takes the defaults for a folder without a configuration.

        Raises:
            OSError: there is no config.json.
        """
        found, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not found:
            raise OSError(f"{str(pretrained_model_name_or_path)!r} holds no config.json")
        return found, kwargs

    @property
    def layer_types(self) -> list[str]:
        """transformers' standard name for the kind of each block."""
        return [mixer_class(name).layer_type for name in self.block_types or ()]

    @property
    def bidirectional(self) -> bool:
        """Whether some outputs depend on later tokens, so that no state can be returned."""
        options = self.mixer_kwargs or {}
        return any(options.get(name, {}).get("bidirectional") for name in self.block_types or ())

    def validate_architecture(self):
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise unknown_name(name, value, known)
        if self.input_features is not None and self.input_features < 1:
            raise ValueError(f"input_features must be positive, got {self.input_features}")
        if self.use_cache and self.bidirectional:
            raise ValueError(
                "use_cache must be False with a bidirectional mixer: an output that depends on "
                "later tokens can't be continued"
            )
        for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if (self.intermediate_size or 0) < 0:
            raise ValueError(
                "intermediate_size must be positive, or 0 for blocks without an MLP, got "
                f"{self.intermediate_size}"
            )
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id must be None or below vocab_size={self.vocab_size} and not "
                f"negative, got {self.pad_token_id}"
            )
        block_types = self.block_types or []
        if len(block_types) != self.num_hidden_layers:
            raise ValueError(
                f"block_types must name num_hidden_layers={self.num_hidden_layers} mixers, got "
                f"{len(block_types)}: {block_types}"
            )
        for name in self.mixer_kwargs or {}:
            mixer_class(name)
        with torch.device("meta"):  # mixers and norms check their options themselves
            build_norm(self)
            for name in dict.fromkeys(block_types):
                build_mixer(self, name)


def build_norm(config: SeqLMConfig) -> torch.nn.Module:
    """A norm of the residual stream.

    Raises:
        ValueError: a value the norm refuses.
    """
    if config.norm_type == "batch":
        return BatchNorm(
            config.hidden_size, config.batch_norm_eps, momentum=config.batch_norm_momentum
        )
    if config.norm_type == "layer":
        return LayerNorm(config.hidden_size, config.layer_norm_eps)
    return RMSNorm(config.hidden_size, config.rms_norm_eps)


def build_mixer(config: SeqLMConfig, name: str) -> torch.nn.Module:
    """The mixer `name` with the options `config` has for it.

    Raises:
        ValueError: an unknown mixer or option, or a value the mixer refuses.
        TypeError: a value of another kind than the option's.
    """
    mixer = mixer_class(name)
    options = (config.mixer_kwargs or {}).get(name, {})
    known = inspect.signature(mixer.__init__).parameters.keys() - {"self", "hidden_size"}
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    check_kinds(mixer.__init__, options, name)
    return mixer(config.hidden_size, **options)
