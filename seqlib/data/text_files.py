# SPDX-License-Identifier: Apache-2.0
"""A user's own files as documents: plain text and JSON lines, compressed or not."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# More undecodable bytes than this share of the text and the file is not UTF-8 text.
MAX_INVALID = 0.01


class UnusableFile(ValueError):
    """A file that can't be read as text; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


def find_files(argument: str, patterns: Sequence[str]) -> tuple[dict[Path, str], set[Path]]:
    """The files that `patterns` (files, directories, globs) name, each once, sorted by key.

    Returns:
        every file with its key, and the subset that was named literally: those must be usable,
        while a file that a glob or a directory scan came across may be skipped. The key is the
        path below the directory that the pattern names, so it stays when that one is moved or
        spelled otherwise.

    Raises:
        TypeError: `patterns` is a single string.
        ValueError: a pattern that matches no file.
    """
    if isinstance(patterns, str):
        raise TypeError(f"{argument} must be a list of paths or globs, got the str {patterns!r}")
    files: dict[Path, str] = {}
    named = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            root, found = path, _scan(path)
        elif path.exists():
            root, found = path.parent, {path}
            named.add(path)
        else:
            root = next(p for p in path.parents if not glob.has_magic(str(p)))
            matches = map(Path, glob.glob(str(path), recursive=True))
            found = {f for m in matches for f in (_scan(m) if m.is_dir() else [m])}
        if not found:
            raise ValueError(f"{argument} {pattern!r} matches no file")
        for file in found:
            key = file.relative_to(root).as_posix()
            files[file] = min(key, files.get(file, key))
    return dict(sorted(files.items(), key=lambda item: item[::-1])), named


def _scan(folder: Path) -> set[Path]:
    """Every file below `folder`, but for hidden ones and those in hidden folders."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {f for f in files if not any(p[0] == "." for p in f.relative_to(folder).parts)}


def is_json_lines(path: Path) -> bool:
    """Whether a file holds a record on each line, by its name."""
    suffixes = [s for s in path.suffixes if s not in (".gz", ".zst")]
    return bool(suffixes) and suffixes[-1] in (".jsonl", ".ndjson")


def read_documents(path: Path, text_column: str) -> list[str]:
    """The documents of one file: each line's `text_column` of JSON lines, else the whole file.

    `.gz` is unpacked by Python, `.zst` by the package `zstandard`. Undecodable bytes become
    U+FFFD as long as they are rare.

    Raises:
        UnusableFile: unreadable, empty, binary, not UTF-8, or not the JSON that was promised.
    """
    text = _decode(path, _read(path))
    if not text.strip():
        raise UnusableFile(path, "is empty")
    return list(_json_lines(path, text, text_column)) if is_json_lines(path) else [text]


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of every line of JSON lines, compressed or not.

    Raises:
        UnusableFile: unreadable, binary, not UTF-8, or a line that is no JSON object.
    """
    for number, record in _records(path, _decode(path, _read(path))):
        if not isinstance(record, dict):
            raise UnusableFile(path, f"line {number} is no JSON object: {record!r}")
        yield number, record


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            return gzip.decompress(data)
        if path.suffix == ".zst":
            return _unpack_zst(path, data)
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableFile(path, f"cannot be read: {error}") from error
    return data


def _unpack_zst(path: Path, data: bytes) -> bytes:
    """Every frame; the library's own file object ends silently where a frame was cut off."""
    try:
        import zstandard
    except ImportError as error:
        raise UnusableFile(path, "needs the package zstandard to be unpacked") from error
    parts = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise UnusableFile(path, f"cannot be read: {error}") from error
        if not frame.eof:
            raise UnusableFile(path, "cannot be read: it ends within a compressed frame")
        data = frame.unused_data
    return b"".join(parts)


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
    for number, record in _records(path, text):
        value = record.get(text_column) if isinstance(record, dict) else None
        if not isinstance(value, str):
            has = sorted(record) if isinstance(record, dict) else type(record).__name__
            raise UnusableFile(path, f"line {number} has no text in {text_column!r}, it has {has}")
        yield value


def _records(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Number and value of every line that is not empty."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise UnusableFile(path, f"line {number} is not JSON: {error}") from error
