# SPDX-License-Identifier: Apache-2.0
"""The Python standard library of the running interpreter: real text on every machine."""

import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .corpus import Document, Preparation
from .splits import hash_split

VERSION = "pystdlib-v1"
THIRD_PARTY = {"site-packages", "dist-packages", "__pycache__"}
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "ensurepip"}


def pystdlib(*, full: bool = False) -> Preparation:
    """About 11 MB of Python code (CPython 3.11: 597 files); `full` adds the tests, 31 MB.

    The corpus differs between Python versions, so the version is part of its digest.
    """
    name = "pystdlib-full" if full else "pystdlib"
    skipped: dict[str, str] = {}

    def documents() -> Iterator[Document]:
        root = Path(sysconfig.get_path("stdlib"))
        for path in sorted(root.rglob("*.py")):
            key = path.relative_to(root)
            if _left_out(key.parts[:-1], full):
                continue
            try:
                text = path.read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError) as error:  # Latin-1 samples among the tests
                skipped[key.as_posix()] = str(error)
                continue
            yield Document(hash_split(VERSION, key.as_posix()), text)

    build = f"{platform.python_implementation().lower()}-{platform.python_version()}"
    return Preparation(
        name=name,
        folder=f"{VERSION.replace('pystdlib', name)}-{build}",
        documents=documents,
        about={
            "versions": {"python": sys.version},
            "licence": "PSF-2.0",
            "attribution": "Python standard library, Python Software Foundation",
        },
        found={"skipped": skipped},
    )


def _left_out(folders: tuple[str, ...], full: bool) -> bool:
    if THIRD_PARTY.intersection(folders):
        return True
    return not full and any(f in LEFT_OUT or f.startswith("config-") for f in folders)
