# SPDX-License-Identifier: Apache-2.0
"""Files of Debian packages: installed ones, or downloaded and unpacked without root."""

import logging
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def package_of(file: Path) -> tuple[str, str] | None:
    """Name and version of the installed package that owns `file`; None where dpkg knows none."""
    if shutil.which("dpkg-query") is None:
        return None
    owner = _ask(["dpkg-query", "-S", str(file)]).partition(":")[0]
    version = _ask(["dpkg-query", "-W", "-f", "${Version}", owner]) if owner else ""
    return (owner, version) if version else None


def real_package(package: str) -> str:
    """What a metapackage such as `python3-doc` stands for in this release; else the name itself."""
    answer = _run(["apt-cache", "depends", "--important", package])
    depends = [s.split()[-1] for s in answer.splitlines() if s.strip().startswith("Depends:")]
    return next((d for d in depends if d.endswith("-doc") or "-doc-" in d), package)


def fetch_package(package: str, folder: Path) -> str:
    """Download a package with apt and unpack it into `folder`; returns its version.

    Raises:
        RuntimeError: apt or dpkg is missing or fails; the message holds what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("downloading the Debian package %s", package)
    _run(["apt-get", "download", package], folder)
    (archive,) = folder.glob("*.deb")
    _run(["dpkg", "-x", str(archive), str(folder)])
    version = _run(["dpkg-deb", "-f", str(archive), "Version"]).strip()
    archive.unlink()
    return version


def _ask(command: Sequence[str]) -> str:
    """What a command says, nothing when it fails."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if answer.returncode else answer.stdout.strip()


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not on this machine, so packages can't be fetched")
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(
            f"{' '.join(command)} failed ('apt-get update' refreshes what apt knows): "
            f"{answer.stderr.strip()}"
        )
    return answer.stdout
