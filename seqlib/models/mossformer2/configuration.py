# SPDX-License-Identifier: Apache-2.0
"""The configuration of MossFormer2."""

from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ...mixers.names import unknown_name
from ..keywords import check_keywords
from .presets import PRESETS

CHOICES = {
    "memory": ("dilated", "plain"),
    "mask_mode": ("multiply", "direct"),
    "attention_normalize": ("frames", "group"),
}

_POSITIVE = (
    *("sample_rate", "num_speakers", "hidden_size", "num_hidden_layers", "group_size"),
    *("hidden_expansion", "inner_size", "fsmn_order", "fsmn_depth"),
)


@strict
class MossFormer2Config(PreTrainedConfig):
    """What a MossFormer2 network is made of; the defaults are the published separation network.

    Args:
        sample_rate: samples per second of what it is trained on.
        num_speakers: C, sources in a mixture.
        encoder_kernel_size: K, samples of a frame, even; frames start K / 2 apart.
        hidden_size: D, even: channels of the encoder and width of the network.
        num_hidden_layers: pairs of an attention block and a gated memory block.
        group_size: G, frames that attend to each other.
        query_key_dim: S.
        hidden_expansion: the attention's hidden projection has hidden_expansion * D channels.
        rotary_dim: channels of queries and keys that turn with the frame, even; at most S are.
        conv_kernel_size: taps behind every projection, odd.
        inner_size: I, width of the gated memory.
        fsmn_order: L, the memory reaches L - 1 taps to either side.
        fsmn_depth: convolutions of the dilated memory.
        memory: "dilated" or "plain".
        mask_mode: "multiply" the encoder's frames with the masks, or decode these "direct".
        dropout: of projections and attention, in training.
        causal: outputs depend on earlier frames only: norms of frames in place of sequences,
            convolutions that look back, L taps in the memory.
        attention_normalize: what the causal linear attention is divided by: "frames" so far or
            "group", the size of one.
        input_features: F, for frames of F features in place of samples (enhancement).
        output_features: channels of a mask where there are `input_features`.
        initial_scale: of the position code and of the last linear maps of every layer's branches
            when they are fresh; the published networks start from 1, small values learn sooner.
        loss_threshold: mixtures whose loss in dB is not above it don't count; None counts all.

    Raises:
        ValueError: an unknown keyword (the message names the nearest known one) or a value out
            of range.
        StrictDataclassFieldValidationError: a value of the wrong type.

    Source: arXiv 2312.11825.
    """

    model_type = "mossformer2"

    sample_rate: int = 8000
    num_speakers: int = 2
    encoder_kernel_size: int = 16
    hidden_size: int = 512
    num_hidden_layers: int = 24
    group_size: int = 256
    query_key_dim: int = 128
    hidden_expansion: int = 4
    rotary_dim: int = 32
    conv_kernel_size: int = 17
    inner_size: int = 256
    fsmn_order: int = 20
    fsmn_depth: int = 2
    memory: str = "dilated"
    mask_mode: str = "multiply"
    dropout: float | int = 0.1
    causal: bool = False
    attention_normalize: str = "frames"
    input_features: int | None = None
    output_features: int | None = None
    initial_scale: float | int = 1.0
    loss_threshold: float | int | None = None

    def __post_init__(self, **kwargs):
        if self._auto_class is None:  # loaded without the code beside it, so not saved with any
            kwargs.pop("auto_map", None)
        model_type = kwargs.pop("model_type", self.model_type)
        if model_type != self.model_type:
            raise ValueError(
                f"this is the configuration of a {model_type!r} model, not of {self.model_type!r}"
            )
        check_keywords(kwargs, [field.name for field in fields(MossFormer2Config)])
        super().__post_init__(**kwargs)
        if self.architectures is None:  # what AutoModel.from_config builds
            does = "Separation" if self.input_features is None else "Enhancement"
            self.architectures = [f"MossFormer2ForSpeech{does}"]

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> "MossFormer2Config":
        """The sizes called `name` in `PRESETS`, with some fields changed.

        Raises:
            ValueError: an unknown preset, or fields that the configuration refuses.
        """
        if name not in PRESETS:
            raise unknown_name("preset", name, PRESETS)
        return cls(**PRESETS[name] | changes)

    @property
    def num_channels(self) -> int:
        """What the network reads per frame: the encoder's channels, or the features."""
        return self.hidden_size if self.input_features is None else self.input_features

    @property
    def min_samples(self) -> int:
        """The length of the shortest recording: two frames, or a window of the spectrum."""
        if self.output_features is not None:
            return 2 * (self.output_features - 1)
        return 3 * self.encoder_kernel_size // 2

    def validate_architecture(self):
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise unknown_name(name, value, choices)
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in (
            ("encoder_kernel_size", 2),
            ("hidden_size", 2),
            ("query_key_dim", 2),
            ("rotary_dim", 0),
        ):
            value = getattr(self, name)
            if value < least or (value % 2 and name != "query_key_dim"):
                even = "" if name == "query_key_dim" else "even and "
                raise ValueError(f"{name} must be {even}at least {least}, got {value}")
        if self.query_key_dim < self.rotary_dim and self.query_key_dim % 2:
            raise ValueError(
                f"query_key_dim must be even below rotary_dim={self.rotary_dim}, "
                f"got {self.query_key_dim}"
            )
        if self.conv_kernel_size < 1 or self.conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size must be odd, got {self.conv_kernel_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not 0 <= self.initial_scale < float("inf"):
            raise ValueError(
                f"initial_scale must be finite and not negative, got {self.initial_scale}"
            )
        if (self.input_features is None) != (self.output_features is None):
            raise ValueError(
                "input_features and output_features must be given together, got "
                f"{self.input_features} and {self.output_features}"
            )
        for name in ("input_features", "output_features"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
