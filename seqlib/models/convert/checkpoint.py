# SPDX-License-Identifier: Apache-2.0
"""From one checkpoint folder to another."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ...mixers.names import unknown_name
from ..lm import SeqLMConfig, SeqLMForCausalLM
from ..lm.configuration import build_mixer
from ..whole_folder import whole_folder
from . import fla, mamba
from .family import SHARED, ConversionError, Family, require
from .tensors import plan, stored_tensors, write_tensors

FAMILIES = (*fla.FAMILIES, *mamba.FAMILIES)
OURS = SeqLMForCausalLM.__name__

DTYPES = ("float64", "float32", "float16", "bfloat16")

# What a checkpoint may have beside configuration and weights that means the same elsewhere.
COMPANIONS = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("chat_template.jinja", "chat_template.json"),
)


def convert_checkpoint(source: str | Path, folder: str | Path) -> str:
    """Write the checkpoint in `source` in the other side's terms into `folder`.

    A checkpoint of flash-linear-attention's DeltaNet, Gated DeltaNet, (Gated) DeltaProduct or
    Mamba, or of transformers' Mamba or Mamba-2, becomes one of `SeqLMForCausalLM`. One of those
    becomes what its mixers are elsewhere (Mamba: transformers'). Tensors keep their bits and
    dtypes, files their division; tokenizer and generation settings are copied. Memory: one
    weights file.

    Args:
        source: a folder with config.json and safetensors files.
        folder: new or empty; appears when all of it is on the disk.

    Returns:
        The `model_type` of what was written.

    Raises:
        ConversionError: something that the other side does not compute, or tensors that are
            missing, superfluous or of another shape. Nothing is written.
        FileExistsError: `folder` holds something.
        OSError: a file that is missing or damaged, or can't be written.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} must be new or empty: nothing is overwritten")
    found = _read_config(source)
    from_ours = found.get("model_type") == SeqLMConfig.model_type
    if from_ours:
        family, config = _ours(found)
        written = _theirs(family, config)
    else:
        family = _family(found)
        config = _translated(family, found)
        written = None
    moves = plan(source, stored_tensors(source), config, family, from_ours)

    with whole_folder(folder) as growing:
        write_tensors(source, growing, moves)
        for name in COMPANIONS:
            if (source / name).is_file():
                shutil.copyfile(source / name, growing / name)
        if written is None:
            config.save_pretrained(growing)
        else:
            text = json.dumps(written, indent=2, sort_keys=True) + "\n"
            (growing / "config.json").write_text(text, encoding="utf-8")
    return SeqLMConfig.model_type if written is None else family.model_type


def _read_config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{source} must be a checkpoint folder, but has no config.json")
    try:
        found = json.loads(path.read_text("utf-8"), object_hook=_number)
    except ValueError as error:
        raise ConversionError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{path} must hold an object, got {type(found).__name__}")
    for name in ("dtype", "torch_dtype"):
        value = found.get(name)
        require(value in (None, *DTYPES), name, f"null or one of {', '.join(DTYPES)}", value)
    return found


def _number(value: dict[str, Any]) -> Any:
    """transformers writes numbers that JSON does not have as {"__float__": "Infinity"}."""
    if value.keys() == {"__float__"}:
        return {"Infinity": math.inf, "-Infinity": -math.inf}.get(value["__float__"], math.nan)
    return value


def _family(found: dict[str, Any]) -> Family:
    known = {family.model_type: family for family in FAMILIES}
    model_type = found.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise ConversionError(
            str(unknown_name("conversion of model_type", model_type, [*known, "seqlib_lm"]))
        )
    return known[model_type]


def _translated(family: Family, found: dict[str, Any]) -> SeqLMConfig:
    """Our configuration of their checkpoint."""
    _check_architecture(found, family.architecture)
    fields = family.read(found)
    try:
        config = SeqLMConfig(
            **{name: fields[name] for name in SHARED if name != "num_hidden_layers"},
            **family.to_ours(fields),
        )
    except ConversionError:
        raise
    except (ValueError, TypeError, StrictDataclassError) as error:
        cause = error.__cause__ or error
        raise ConversionError(f"the configuration of {family.model_type!r}: {cause}") from error
    config.architectures = [OURS]
    return config


def _ours(found: dict[str, Any]) -> tuple[Family, SeqLMConfig]:
    """The family that a checkpoint of ours belongs to, and its configuration."""
    _check_architecture(found, OURS)
    try:
        config = SeqLMConfig.from_dict(found)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ConversionError(f"the configuration: {error.__cause__ or error}") from error
    known = {family.mixer: family for family in FAMILIES}
    mixers = sorted(set(config.block_types or ()))
    require(
        len(mixers) == 1 and mixers[0] in known,
        "block_types",
        f"the same everywhere and one of {', '.join(sorted(known))}",
        config.block_types,
    )
    return known[mixers[0]], config


def _theirs(family: Family, config: SeqLMConfig) -> dict[str, Any]:
    """Their configuration of our checkpoint."""
    with torch.device("meta"):
        mixer = build_mixer(config, family.mixer)
    dtype = config.dtype
    return {
        **{name: getattr(config, name) for name in SHARED},
        **family.to_theirs(config, mixer),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "model_type": family.model_type,
        "architectures": [family.architecture],
    }


def _check_architecture(found: dict[str, Any], architecture: str) -> None:
    named = found.get("architectures")
    require(named in (None, [architecture]), "architectures", f"[{architecture!r}]", named)
