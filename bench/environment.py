# SPDX-License-Identifier: Apache-2.0
"""What a result must be traceable to: the commit and the versions."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "bench/results"

# Distributions whose versions every record carries; None where one is not installed.
DISTRIBUTIONS = ("torch", "triton", "numba", "numpy")


def version(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout and whether files differ from it; both None outside of git.

    Recorded results don't make a checkout dirty.
    """
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", f":(exclude){RESULTS}")
    if head is None or changes is None:
        return None, None
    return head.strip(), bool(changes.strip())


def versions() -> dict[str, Any]:
    """Python and the distributions that decide speed."""
    found = {name: version(name) for name in DISTRIBUTIONS}
    return {"python": platform.python_version(), **found}


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(ROOT), *words]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout if answer.returncode == 0 else None
