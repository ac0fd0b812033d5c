# SPDX-License-Identifier: Apache-2.0
"""Settings of a run: dataclasses filled from a YAML file first and the command line after."""

import dataclasses
import difflib
import json
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser


class _Parser(HfArgumentParser):
    """Raises where argparse would print the usage of some hundred options and leave."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _Loader(yaml.SafeLoader):
    """Takes 1e-3 for a number as well, which YAML 1.1 wants written 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_settings(kinds: Sequence[type], words: Sequence[str]) -> tuple[Any, ...]:
    """One instance of each dataclass in `kinds`, from `[CONFIG.yaml] [--name value ...]`.

    Values from the file are read as if they were written on the command line before the words
    that are: the same types, the same checks, and the last one wins. A null keeps the default.
    `--name.key value` sets one entry of a setting that is a mapping; `--name '{...}'` replaces it.

    Args:
        kinds: dataclasses without a field name in common.
        words: the command line without the program's name.

    Raises:
        ValueError: an unreadable file, an unknown name (with the nearest known one), a value of
            another type, or what a dataclass refuses itself.
    """
    names = [f.name for kind in kinds for f in dataclasses.fields(kind) if f.init]
    words = list(words)
    values: dict[str, Any] = {}
    if words and not words[0].startswith("-"):
        values = _read(Path(words.pop(0)))
    words = _take_dotted(words, values)
    for name in values:
        if name not in names:
            raise ValueError(unknown_setting(name, names))
    parser = _Parser(kinds, allow_abbrev=False)  # type: ignore[arg-type]
    hints = {k: v for kind in kinds for k, v in get_type_hints(kind).items()}
    from_file = [w for name, value in values.items() for w in _words(name, value, hints[name])]
    *settings, rest = parser.parse_args_into_dataclasses(
        [*from_file, *words], return_remaining_strings=True, look_for_args_file=False
    )
    for word in rest:
        if word.startswith("--"):
            raise ValueError(unknown_setting(word[2:].split("=")[0], names))
    if rest:
        raise ValueError(f"settings are written --name value, got {rest[0]!r}")
    return tuple(settings)


def unknown_setting(name: str, known: Sequence[str]) -> str:
    """The message for a name that no setting has."""
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    return f"no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def as_mapping(name: str, value: Mapping | str | None) -> dict[str, Any]:
    """A setting that holds a mapping, from its mapping, its JSON text or None.

    Raises:
        ValueError: the text is not a JSON object.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} must be a JSON object, got {value!r} ({error})") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping, got {value!r}")
    return dict(value)


def as_words(options: Mapping[str, Any]) -> list[str]:
    """`name: value` as words of a command line; None leaves a setting as it is."""
    words: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            text = json.dumps(value) if isinstance(value, Mapping) else str(value)
            words.append(f"--{name}={text}")
    return words


def file_name(name: str) -> str:
    """`name` as a folder may be called."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't read the settings file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `name: value` lines, got {type(values).__name__}")
    return {str(name): value for name, value in values.items()}


def _take_dotted(words: Sequence[str], values: dict[str, Any]) -> list[str]:
    """Move `--name.key value`, and what else sets the same names, into `values`, in order.

    Returns the other words.
    """
    mappings = {w[2:].split(".")[0] for w in words if w.startswith("--") and "." in w.split("=")[0]}
    rest, queue = [], list(words)
    while queue:
        word = queue.pop(0)
        option, equals, text = word.partition("=")
        name, *keys = option[2:].split(".")
        if not option.startswith("--") or name not in mappings:
            rest.append(word)
            continue
        if not equals:
            if not queue:
                raise ValueError(f"{option} needs a value")
            text = queue.pop(0)
        if not keys:
            values[name] = as_mapping(name, text)
            continue
        inner = values[name] = as_mapping(name, values.get(name))
        for key in keys[:-1]:
            inner[key] = as_mapping(f"{name}.{key}", inner.get(key))
            inner = inner[key]
        inner[keys[-1]] = yaml.load(text, _Loader)
    return rest


def _words(name: str, value: Any, hint: Any) -> list[str]:
    """The command-line words that mean `name: value`."""
    if value is None:
        return []
    if isinstance(value, list):
        if not _takes_list(hint):
            raise ValueError(f"{name} takes one value, got the list {value}")
        return [f"--{name}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{name}={json.dumps(value)}"]
    return [f"--{name}={value}"]


def _takes_list(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        return len(parts) == 1 and _takes_list(parts[0])
    return get_origin(hint) is list
