# SPDX-License-Identifier: Apache-2.0
"""The record of a run: what it was made from, written before the first step and held against."""

import dataclasses
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from .checkpoints import CheckpointError, last_checkpoint

RECORD_FILE = "run.yaml"

_PACKAGES = ("seqlib", "torch", "transformers", "accelerate", "numba", "numpy", "sentencepiece")

# Settings that leave the trained numbers as they are, so a run may go on with other ones.
_FREE = {
    "disable_tqdm",
    "expect_processes",
    "local_rank",
    "output_dir",
    "project",
    "report_to",
    "resume_from_checkpoint",
    "run_name",
}
_FREE_PREFIXES = ("eval_", "hub_", "log_", "logging_", "push_", "save_")


def describe(settings: Sequence[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a run depends on: resolved settings, data, commit, versions and machine.

    Args:
        settings: dataclass instances.
        data: what identifies the training data, such as its hash; plain YAML values.
    """
    return {
        "settings": {name: value for part in settings for name, value in _fields(part).items()},
        "data": dict(data),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "command": sys.argv,
    }


def open_run(output_dir: str | Path, record: Mapping[str, Any], resume: str | None) -> Path | None:
    """Where to go on, decided by what `output_dir` holds: a checkpoint, or None for a new run.

    With `resume="auto"` the same settings on the same data go on after the last complete
    checkpoint; a path is taken as it is, and None asks for a folder without a run.

    Raises:
        CheckpointError: the folder holds another run (says what differs) or a record that can't
            be read, or `resume` is a path that is no folder.
    """
    found = Path(output_dir) / RECORD_FILE
    last = last_checkpoint(output_dir)
    if resume not in (None, "auto"):
        if not Path(resume).is_dir():
            raise CheckpointError(
                f"resume_from_checkpoint must be 'auto' or a folder, got {resume!r}"
            )
        return Path(resume)
    if not found.is_file():
        if last is not None:
            raise CheckpointError(f"{output_dir} holds checkpoints of a run that left no record")
        return None
    earlier = _read_record(found)
    differences = _differences(earlier, record)
    if differences:
        raise CheckpointError(
            f"{output_dir} holds a run with other settings ({'; '.join(differences)}): choose "
            "another --output_dir, delete the folder, or name a checkpoint in it with "
            "--resume_from_checkpoint to go on from there with these settings"
        )
    if resume is None and last is not None:
        raise CheckpointError(
            f"{output_dir} already holds this run: set resume_from_checkpoint to 'auto' to go on"
        )
    return last


def write_record(output_dir: str | Path, record: Mapping[str, Any]) -> None:
    """Write `record` into `output_dir`, whole or not at all."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{RECORD_FILE}"
    draft.write_text(yaml.safe_dump(dict(record), sort_keys=False), encoding="utf-8")
    os.replace(draft, folder / RECORD_FILE)


def _read_record(path: Path) -> Mapping[str, Any]:
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"the record of a run, {path}, can't be read: {error}") from error
    if not isinstance(record, dict) or not all(
        isinstance(record.get(part), dict) for part in ("settings", "data")
    ):
        raise CheckpointError(f"{path} is no record of a run: it holds no settings and data")
    return record


def _fields(settings: Any) -> dict[str, Any]:
    if isinstance(settings, TrainingArguments):
        values = settings.to_dict()
    else:
        values = dataclasses.asdict(settings)
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """`value` as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    def compared(record: Mapping[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in record["settings"].items() if k not in _FREE}
        kept = {k: v for k, v in kept.items() if not k.startswith(_FREE_PREFIXES)}
        data = {f"data {k}": v for k, v in record["data"].items()}
        return {**kept, **data, "processes": record.get("processes")}

    then, here = compared(earlier), compared(now)
    return [
        f"{name} was {then[name]!r}, now {here[name]!r}"
        for name in sorted(then.keys() & here.keys())
        if then[name] != here[name]
    ]


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, marked where it was changed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(here),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
