# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that carry their code, for machines where this project is not installed."""

import importlib.metadata
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.models.auto import modeling_auto

from .flat_code import PACKAGES, flat_name, flatten


def save_pretrained_with_code(
    model: PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a checkpoint that loads with `trust_remote_code=True` where seqlib is missing.

    Beside what `model.save_pretrained` writes it holds the source of the model down to its
    kernels, a `requirements.txt`, and a `README.md` unless there is one. Every Auto class that
    knows the model's configuration loads from it. There, numba and Triton are optional: CPU
    tensors without numba run on the reference, a loop over time.

    Where seqlib is imported, its own classes are used and the code in the checkpoint is ignored.

    Args:
        model: an unwrapped model of seqlib.
        folder: made if needed; files of the same names are replaced.
        tokenizer: saved beside the model.

    Raises:
        TypeError: a model of another kind, such as one wrapped for distributed training.
        ValueError: a class that came with a checkpoint (its own `save_pretrained` keeps the
            code), or source with an import that can't go along; nothing is written.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a PreTrainedModel, got {type(model).__name__}")
    if type(model).__module__.split(".")[0] not in PACKAGES:
        raise ValueError(
            f"model must be of a class of seqlib, got {type(model).__module__}; a model loaded "
            "with its own code keeps it in save_pretrained"
        )
    classes = _auto_classes(type(model.config), type(model))
    if type(model) not in classes.values():
        raise ValueError(
            f"model must be of a class that an Auto class loads, got {type(model).__name__}"
        )
    folder = Path(folder)
    entry = f"modeling_{model.config.model_type}"
    code = flatten(sorted({cls.__module__ for cls in classes.values()}))
    files = {**code.files, entry: _entry(classes)}
    check_scan(files, entry)

    folder.mkdir(parents=True, exist_ok=True)
    _write(files, folder)
    (folder / "requirements.txt").write_text(_requirements(code.requires), encoding="utf-8")
    if not (folder / "README.md").exists():
        (folder / "README.md").write_text(_readme(model, classes), encoding="utf-8")
    model.config.auto_map = {auto: f"{entry}.{cls.__name__}" for auto, cls in classes.items()}
    try:
        model.save_pretrained(folder)
    finally:
        vars(model.config).pop("auto_map")  # a later save without code must not point at any
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _auto_classes(config_class: type[PreTrainedConfig], model_class: type) -> dict[str, type]:
    """The class that each of transformers' Auto classes loads for a checkpoint of a model."""
    classes: dict[str, type] = {"AutoConfig": config_class}
    for name, auto in vars(modeling_auto).items():
        known: Mapping[type, Any] = getattr(auto, "_model_mapping", {})
        if name.startswith("Auto") and config_class in known:
            found = known[config_class]
            if isinstance(found, tuple):  # the checkpoint says which
                found = model_class if model_class in found else found[0]
            classes[name] = found
    return classes


def _entry(classes: dict[str, type]) -> str:
    """The file that `auto_map` names: one door for all classes, so that one copy is loaded.

    The classes say that they come from here, because `save_pretrained` of a loaded model copies
    the file its class comes from and whatever that imports.
    """
    homes: dict[str, set[str]] = {}
    for cls in classes.values():
        homes.setdefault(flat_name(cls.__module__), set()).add(cls.__name__)
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        '"""Loads with `trust_remote_code=True`; the code is that of seqlib, in flat files."""',
        "",
        *(f"from .{file} import {', '.join(sorted(homes[file]))}" for file in sorted(homes)),
        "",
        "for _class in (",
        *(f"    {name}," for file in sorted(homes) for name in sorted(homes[file])),
        "):",
        "    _class.__module__ = __name__  # where saving a loaded model finds the code",
    ]
    return "\n".join(lines) + "\n"


def _write(files: Mapping[str, str], folder: Path) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def check_scan(files: Mapping[str, str], entry: str) -> None:
    """Hold `files` to those that transformers finds by its own scan from the file `entry` on.

    Raises:
        ValueError: files that the scan misses, or finds a mention of but that are not there.
    """
    with tempfile.TemporaryDirectory() as draft:
        folder = Path(draft)
        _write(files, folder)
        try:
            found = {Path(name).stem for name in get_relative_import_files(folder / f"{entry}.py")}
        except FileNotFoundError as error:
            raise ValueError(
                f"transformers would look for {error.filename}: some file has a line that looks "
                "like an import of it"
            ) from error
    needed = files.keys() - {entry}
    if found != needed:
        raise ValueError(f"transformers would not load {sorted(needed ^ found)}")


def _requirements(packages: set[str]) -> str:
    """The lines of seqlib's own requirements that are about `packages`, and numba."""
    wanted = {name.replace("_", "-") for name in packages | {"numba"}}
    lines = [
        line
        for line in importlib.metadata.requires("seqlib") or []
        if ";" not in line and re.split(r"[^\w-]", line)[0].replace("_", "-") in wanted
    ]
    known = {re.split(r"[^\w-]", line)[0].replace("_", "-") for line in lines}
    lines += wanted - known - sys.stdlib_module_names
    return "\n".join(sorted(lines)) + "\n"


def _readme(model: PreTrainedModel, classes: dict[str, type]) -> str:
    auto = next(auto for auto, cls in classes.items() if cls is type(model))
    return f"""---
library_name: transformers
tags: [seqlib, custom_code]
---

`{type(model).__name__}` with its code, that of seqlib {importlib.metadata.version("seqlib")}:

```python
from transformers import {auto}

model = {auto}.from_pretrained("path/of/this/folder", trust_remote_code=True)
```

It needs the packages in `requirements.txt` and loads with {", ".join(classes)}.
"""
