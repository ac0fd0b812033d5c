# SPDX-License-Identifier: Apache-2.0
"""English technical documentation and a dictionary from Debian packages."""

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import cleaning
from .cache import folder_of
from .corpus import Document, Preparation
from .debian import fetch_package, package_of, real_package
from .splits import hash_split

VERSION = "debdocs-v1"


@dataclass(frozen=True)
class Source:
    """One package of documentation.

    Attributes:
        key: its name in document keys, the same for every release of Debian.
        package: its name, or that of the metapackage that stands for the release's version.
        folder: a glob below the root that names the folder of its documents.
        marker: a file in that folder; minimal systems install packages without their documents.
        pattern: which files are documents.
        clean: from a file's text to documents of plain text.
        licence: the terms of its text.
        credit: whom it is to be attributed to.
    """

    key: str
    package: str
    folder: str
    marker: str
    pattern: str
    clean: Callable[[str], Iterable[str]]
    licence: str
    credit: str


def _whole(clean: Callable[[str], str], text: str) -> list[str]:
    return [clean(text)]


PERL = Source(
    "perl", "perl-doc", "usr/share/perl/[0-9]*", "pod/perlfunc.pod", "**/*.pod",
    partial(_whole, cleaning.pod), "GPL-1+ or Artistic", "Larry Wall and others",
)  # fmt: skip
POSTGRESQL = Source(
    "postgresql", "postgresql-doc", "usr/share/doc/postgresql-doc-[0-9]*/html", "index.html",
    "*.html", partial(_whole, cleaning.html_text), "PostgreSQL",
    "PostgreSQL Global Development Group",
)  # fmt: skip
GCIDE = Source(
    "gcide", "dict-gcide", "usr/share/dictd", "gcide.dict.dz", "gcide.dict.dz",
    cleaning.gcide, "GPL-2+", "GNU Collaborative International Dictionary of English",
)  # fmt: skip
LINUX = Source(
    "linux", "linux-doc", "usr/share/doc/linux-doc-[0-9]*/html/_sources", "index.rst.txt",
    "**/*.rst.txt", partial(_whole, cleaning.rst), "GPL-2", "The kernel development community",
)  # fmt: skip
PYTHON = Source(
    "python", "python3-doc", "usr/share/doc/python3.*/html/_sources", "library/index.rst.txt",
    "**/*.rst.txt", partial(_whole, cleaning.rst), "PSF-2.0", "Python Software Foundation",
)  # fmt: skip
HANDBOOK = Source(
    "handbook", "debian-handbook", "usr/share/doc/debian-handbook/html/en-US", "index.html",
    "*.html", partial(_whole, cleaning.html_text), "GPL-2+ or CC-BY-SA-3.0",
    "Raphaël Hertzog and Roland Mas",
)  # fmt: skip

SMALL = (PERL, POSTGRESQL, GCIDE)
ALL = (LINUX, PYTHON, PERL, POSTGRESQL, HANDBOOK, GCIDE)


def debdocs(
    *, small: bool = False, fetch: bool = False, path: str | os.PathLike[str] | None = None
) -> Preparation:
    """79 MB of text from six packages, 110 MB to download; `small`: 48 MB from three, 25 MB.

    Packages are looked for below `path`, or where Debian installs them; with `fetch`, those not
    there are downloaded by apt.

    Raises (when it is prepared):
        ValueError: packages are missing and `fetch` is off; the message names them.
        RuntimeError: a download failed.
    """
    name = "debdocs-s" if small else "debdocs"
    sources = SMALL if small else ALL
    versions: dict[str, str] = {}
    skipped: dict[str, str] = {}

    root = Path(path or "/").absolute()

    def documents() -> Iterator[Document]:
        found = {source: _find(root, source) for source in sources}
        missing = [source.package for source, folder in found.items() if folder is None]
        if missing and not fetch:
            raise ValueError(
                f"{name} needs the Debian packages {', '.join(missing)}: install them, or allow "
                f"the download with fetch=True"
            )
        seen: set[bytes] = set()
        for source, folder in found.items():
            with tempfile.TemporaryDirectory(prefix="seqlib-") as scratch:
                if folder is None:
                    folder = _fetch(source, Path(scratch), versions)
                else:
                    package, version = package_of(folder / source.marker) or (
                        source.package,
                        "unknown",
                    )
                    versions[package] = version
                yield from _documents(source, folder, seen, skipped)

    return Preparation(
        name=name,
        folder=folder_of(VERSION.replace("debdocs", name), path),
        documents=documents,
        about={
            "licence": {source.package: source.licence for source in sources},
            "attribution": {source.package: source.credit for source in sources},
        },
        found={"versions": versions, "skipped": skipped},
    )


def _find(root: Path, source: Source) -> Path | None:
    """The newest folder of a source's documents below `root`."""
    folders = [f for f in sorted(root.glob(source.folder)) if (f / source.marker).is_file()]
    return folders[-1] if folders else None


def _fetch(source: Source, scratch: Path, versions: dict[str, str]) -> Path:
    package = real_package(source.package)
    versions[package] = fetch_package(package, scratch)
    folder = _find(scratch, source)
    if folder is None:
        raise RuntimeError(f"the package {package} has no {source.folder}/{source.marker}")
    return folder


def _documents(
    source: Source, folder: Path, seen: set[bytes], skipped: dict[str, str]
) -> Iterator[Document]:
    for path in sorted(folder.glob(source.pattern)):
        relative = path.relative_to(folder)
        if "translations" in relative.parts:
            continue
        try:
            data = path.read_bytes()
            if path.suffix == ".dz":
                data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            skipped[str(path)] = str(error)
            continue
        for i, raw in enumerate(source.clean(data.decode("utf-8", "replace"))):
            text = cleaning.normalise(raw)
            digest = hashlib.sha1(text.encode()).digest()
            if len(text) < cleaning.MIN_CHARS or digest in seen:
                continue
            seen.add(digest)
            key = f"{source.key}/{relative.as_posix()}" + (f"#{i}" if i else "")
            yield Document(hash_split(VERSION, key), text)
