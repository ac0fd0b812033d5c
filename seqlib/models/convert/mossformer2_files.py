# SPDX-License-Identifier: Apache-2.0
"""The files that published MossFormer2 checkpoints come in."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .family import ConversionError

# What files are called that hold one network in three parts, and the prefixes of the parts.
PARTS = {"encoder.ckpt": "encoder.", "masknet.ckpt": "masknet.", "decoder.ckpt": "decoder."}
MODELSCOPE = "pytorch_model.bin"
CLEARVOICE = "last_best_checkpoint"  # a text that names the file with the weights

# Left by parallel training and by wrappers around the network.
_WRAPPERS = ("module.", "model.")


def read_tensors(source: Path) -> dict[str, Tensor]:
    """Every tensor of a published checkpoint, without the prefixes of wrappers.

    Nothing but tensors is unpickled.

    Args:
        source: a file, or a folder with `last_best_checkpoint`, with `encoder.ckpt`,
            `masknet.ckpt` and `decoder.ckpt`, or with `pytorch_model.bin`.

    Raises:
        ConversionError: a pickle of something else, or no dictionary of tensors.
        OSError: a file that is missing or damaged.
    """
    if not source.is_dir():
        return _unwrapped(_load(source), source)
    if any((source / name).is_file() for name in PARTS):
        tensors = {}
        for name, prefix in PARTS.items():
            part = _unwrapped(_load(source / name), source / name)
            tensors |= {prefix + key: value for key, value in part.items()}
        return tensors
    if (source / CLEARVOICE).is_file():
        name = (source / CLEARVOICE).read_text("utf-8").strip()
        if Path(name).name != name or not (source / name).is_file():
            raise FileNotFoundError(f"{source / CLEARVOICE} names {name!r}, which is not beside it")
    elif (source / MODELSCOPE).is_file():
        name = MODELSCOPE
    else:
        raise FileNotFoundError(
            f"{source} must hold {CLEARVOICE}, {MODELSCOPE} or {', '.join(PARTS)}; "
            "name the file if it is called otherwise"
        )
    return _unwrapped(_load(source / name), source / name)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).split("\n", 1)[0]
        raise ConversionError(
            f"{path} holds something beside tensors and plain values, or is no checkpoint; "
            f"it was not executed ({first})"
        ) from error
    except (RuntimeError, EOFError, SafetensorError, UnicodeDecodeError) as error:
        raise OSError(f"{path} is damaged or incomplete ({error}); get it again") from error


def _unwrapped(found: Any, path: Path) -> dict[str, Tensor]:
    for name in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise ConversionError(f"{path} must hold a dictionary of tensors, got {type(found)}")
    for key, value in found.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value)
            raise ConversionError(f"{key!r} in {path} must be a floating-point tensor, got {kind}")
    tensors = dict(found)
    while prefix := next((p for p in _WRAPPERS if all(k.startswith(p) for k in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def write_files(tensors: Mapping[str, Tensor], folder: Path, layout: str) -> None:
    """Write tensors as the files of a layout."""
    tensors = dict(tensors)
    if layout == "standalone":
        for name, prefix in PARTS.items():
            part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            torch.save(part, folder / name)
    elif layout == "modelscope":
        torch.save(tensors, folder / MODELSCOPE)
    else:
        torch.save({"model": tensors}, folder / f"{CLEARVOICE}.pt")
        (folder / CLEARVOICE).write_text(f"{CLEARVOICE}.pt\n", encoding="utf-8")
