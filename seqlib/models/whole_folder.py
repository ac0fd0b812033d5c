# SPDX-License-Identifier: Apache-2.0
"""A folder that appears under its name when all of it is on the disk, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when the block succeeds.

    It grows beside `folder` under one name, `.NAME.incomplete`: what a process left there that
    was killed is removed by the next one.

    Args:
        folder: new or empty.

    Raises:
        OSError: `folder` got files meanwhile, or can't be written.
    """
    folder = folder.resolve()
    growing = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(growing, ignore_errors=True)
    try:
        growing.mkdir(parents=True)
        yield growing
        move_into_place(growing, folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def move_into_place(folder: Path, destination: Path, *, over: bool = False) -> None:
    """Give the finished `folder` its name, once all of its bytes are on the disk.

    Args:
        over: remove what is there, instead of an error if that is more than an empty folder.
    """
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)
    if over and destination.exists():
        shutil.rmtree(destination)
    os.replace(folder, destination)
    _sync(destination.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
