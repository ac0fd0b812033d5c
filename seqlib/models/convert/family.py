# SPDX-License-Identifier: Apache-2.0
"""What one published kind of checkpoint is made of, and how its configuration is read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from ..lm import SeqLMConfig

# Fields that mean the same on both sides.
SHARED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "tie_word_embeddings", "use_cache"),
    *("initializer_range", "pad_token_id", "bos_token_id", "eos_token_id", "dtype"),
)


class ConversionError(ValueError):
    """A checkpoint that can't be said in the other side's terms; the message names what can't."""


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint elsewhere and the mixer that computes the same here.

    Attributes:
        model_type, architecture: what their configuration says of itself.
        mixer: ours, in every block.
        fields: theirs that are translated, with their defaults.
        fixed: theirs that select something, with the values that we compute, the usual first.
        without_effect: theirs that do not change what a trained model computes.
        former_names: other names of `fields`, of earlier files or of another library.
        tensors: (pattern, replacement) from our names of tensors to theirs, tried in order.
        to_ours: from all of `fields` to fields of `SeqLMConfig` beside the shared ones.
        to_theirs: from our configuration and one of its mixers to theirs, beside the shared ones.
    """

    model_type: str
    architecture: str
    mixer: str
    fields: Mapping[str, Any]
    fixed: Mapping[str, tuple[Any, ...]]
    without_effect: frozenset[str]
    former_names: Mapping[str, str]
    tensors: tuple[tuple[str, str], ...]
    to_ours: Callable[[dict[str, Any]], dict[str, Any]]
    to_theirs: Callable[[SeqLMConfig, nn.Module], dict[str, Any]]

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all `fields` in their configuration.

        Raises:
            ConversionError: a value that we do not compute or of another kind than the default,
                or a field nobody here knows.
        """
        found = dict(self.fields)
        ignored = self.without_effect | _generic()
        for former, value in config.items():
            name = self.former_names.get(former, former)
            require(
                value == config.get(name, value), former, f"{config.get(name)!r} as {name}", value
            )
            if name in self.fields:
                _check_kind(former, self.fields[name], value)
                found[name] = value
            elif name in self.fixed:
                if value not in self.fixed[name]:
                    usual = " or ".join(map(repr, self.fixed[name]))
                    raise ConversionError(
                        f"{name} must be {usual} in a {self.model_type!r} checkpoint, because "
                        f"nothing else is computed here, got {value!r}"
                    )
            elif name not in ignored:
                raise ConversionError(
                    f"{name} = {value!r} is no known field of a {self.model_type!r} checkpoint; "
                    "remove it from config.json if the model computes the same without it"
                )
        return found

    def their_name(self, ours: str) -> str:
        """What they call the tensor `ours`."""
        for pattern, replacement in self.tensors:
            theirs, count = re.subn(pattern, replacement, ours)
            if count:
                return theirs
        return ours


def require(holds: bool, name: str, rule: str, value: object) -> None:
    """Raise a `ConversionError` that names the field, the rule and the value unless it holds."""
    if not holds:
        raise ConversionError(f"{name} must be {rule}, got {value!r}")


def _check_kind(name: str, default: Any, value: Any) -> None:
    """Hold a value to the kind of its default: a text such as "false" would count as true."""
    if not isinstance(default, bool | int | float) or name.endswith("_token_id"):
        return  # what may be None is checked by our configuration
    kind, rule = {
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        float: (int | float, "a number"),
    }[type(default)]
    fits = isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool)
    require(fits, name, rule, value)


def _generic() -> set[str]:
    """Fields that any configuration may have and that change no computation here."""
    return {*PreTrainedConfig().to_dict(), "auto_map", "_attn_implementation_autoset"}
