# SPDX-License-Identifier: Apache-2.0
"""A user's own files as documents: plain text and JSON lines, compressed or not."""

import glob
import gzip
import importlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

# More undecodable bytes than this share of the text and the file is not UTF-8 text.
MAX_INVALID = 0.01


class UnusableFile(ValueError):
    """A file that can't be read as text; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


def find_files(argument: str, patterns: Sequence[str]) -> tuple[list[Path], set[Path]]:
    """The files that `patterns` (files, directories, globs) name, sorted, each once.

    Returns:
        every file, and the subset that was named literally: those must be usable, while a file
        that a glob or a directory scan came across may be skipped.

    Raises:
        TypeError: `patterns` is a single string.
        ValueError: a pattern that matches no file.
    """
    if isinstance(patterns, str):
        raise TypeError(f"{argument} must be a list of paths or globs, got the str {patterns!r}")
    files, named = set(), set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            found = _scan(path)
        elif path.exists():
            found = {path}
            named.add(path)
        else:
            matches = map(Path, glob.glob(str(path), recursive=True))
            found = {f for m in matches for f in (_scan(m) if m.is_dir() else [m])}
        if not found:
            raise ValueError(f"{argument} {pattern!r} matches no file")
        files |= found
    return sorted(files), named


def _scan(folder: Path) -> set[Path]:
    """Every file below `folder`, but for hidden ones and those in hidden folders."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {f for f in files if not any(p[0] == "." for p in f.relative_to(folder).parts)}


def read_documents(path: Path, text_column: str) -> list[str]:
    """The documents of one file: each line's `text_column` of JSON lines, else the whole file.

    `.gz` is unpacked by Python, `.zst` by Python 3.14 or the package `zstandard`. Undecodable
    bytes become U+FFFD as long as they are rare.

    Raises:
        UnusableFile: unreadable, empty, binary, not UTF-8, or not the JSON that was promised.
    """
    text = _decode(path, _read(path))
    if not text.strip():
        raise UnusableFile(path, "is empty")
    suffixes = [s for s in path.suffixes if s not in (".gz", ".zst")]
    if suffixes and suffixes[-1] in (".jsonl", ".ndjson"):
        return list(_json_lines(path, text, text_column))
    return [text]


def _read(path: Path) -> bytes:
    try:
        with _open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableFile(path, f"cannot be read: {error}") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        for module in ("compression.zstd", "zstandard"):
            try:
                return importlib.import_module(module).open(path, "rb")
            except ImportError:
                continue
        raise UnusableFile(path, "needs the package zstandard to be unpacked")
    return path.open("rb")


def _decode(path: Path, data: bytes) -> str:
    if b"\0" in data:
        raise UnusableFile(path, "is binary (or UTF-16): it contains NUL bytes")
    text = data.decode("utf-8-sig", "replace")
    invalid = text.count("�") - data.count("�".encode())
    if invalid > MAX_INVALID * len(text):
        share = 100 * invalid / len(text)
        raise UnusableFile(path, f"is not UTF-8 text: {share:.1f} % of it cannot be decoded")
    return text


def _json_lines(path: Path, text: str, text_column: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UnusableFile(path, f"line {number} is not JSON: {error}") from error
        value = record.get(text_column) if isinstance(record, dict) else None
        if not isinstance(value, str):
            has = sorted(record) if isinstance(record, dict) else type(record).__name__
            raise UnusableFile(path, f"line {number} has no text in {text_column!r}, it has {has}")
        yield value
