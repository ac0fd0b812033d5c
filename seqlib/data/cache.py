# SPDX-License-Identifier: Apache-2.0
"""Where prepared data lives, and how a folder of it appears whole or not at all."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache directory: `cache_dir`, else `$SEQLIB_DATA`, else `~/.cache/seqlib`."""
    return Path(cache_dir or os.environ.get("SEQLIB_DATA") or "~/.cache/seqlib").expanduser()


def folder_of(name: str, path: str | os.PathLike[str] | None) -> str:
    """The folder of data called `name`, another one for each `path` that it is to come from."""
    if path is None:
        return name
    return f"{name}-{hashlib.sha256(str(Path(path).absolute()).encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A scratch directory beside `target` that is renamed to `target` when the block succeeds.

    Readers never see half of it: after an exception (a full disk, an interrupt) the scratch
    directory is removed and `target` is absent. When another process finished first, its result
    stays and this one is thrown away, so both must be made from the same inputs.

    Raises:
        OSError: writing failed; the message names `target`.
    """
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise OSError(error.errno, f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_about(file: Path) -> dict[str, Any]:
    """What a prepared folder says of itself.

    Raises:
        ValueError: it can't be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): {_remedy(file)}") from error


def check_size(file: Path, size: int) -> None:
    """Hold a prepared file to the size it was written with.

    Raises:
        ValueError: it is gone or has another size.
    """
    found = file.stat().st_size if file.exists() else 0
    if found != size:
        raise ValueError(f"{file} must hold {size} bytes, found {found}: {_remedy(file)}")


def _remedy(file: Path) -> str:
    return f"delete {file.parent} and it will be prepared again"
