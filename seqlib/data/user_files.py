# SPDX-License-Identifier: Apache-2.0
"""The corpus of a user's own text files."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .corpus import Document, Preparation
from .splits import hash_fraction, text_key
from .text_files import UnusableFile, find_files, is_json_lines, read_documents

VERSION = "files-v1"
VALIDATION_SHARE = 0.05
PIECE_CHARS = 16_384


def user_files(
    train_files: Sequence[str], validation_files: Sequence[str] | None, text_column: str
) -> Preparation:
    """Text files, JSON-lines files, globs and directories as a corpus.

    Every plain text file is one document, every line of a JSON-lines file is one. A file that
    `validation_files` name is not trained on, even if `train_files` match it as well. Without
    `validation_files`, 5 % of the documents are held out: files by the hash of their path below
    the directory or glob that was named, lines by the hash of their text; copies of a text stay
    together. When that leaves a split empty, as with a single file, texts are first cut at line
    ends into pieces of about 16 thousand characters (less for small texts), and the pieces are
    split the same way.

    The cache knows files by path, size and modification time. Files that a glob or a scan found
    and that can't be read are recorded in the manifest under `skipped`.

    Raises:
        ValueError: a pattern without a match, a named file that can't be used, no usable file,
            no file beside the validation files.
    """
    train = find_files("train_files", train_files)
    validation = find_files("validation_files", validation_files) if validation_files else None
    if validation is not None:
        train = (_without(train[0], validation[0]), train[1])
    skipped: dict[str, str] = {}

    def documents() -> Iterator[Document]:
        texts = _read_all("train_files", *train, text_column, skipped)
        if validation is None:
            yield from _split(texts)
            return
        held_out = _read_all("validation_files", *validation, text_column, skipped)
        for _, text in texts:
            yield Document("train", text)
        for _, text in held_out:
            yield Document("validation", text)

    files = {"train": train[0], "validation": validation[0] if validation else {}}
    return Preparation(
        name="text files",
        folder=f"{VERSION}-{_fingerprint(files, text_column)}",
        documents=documents,
        about={
            "licence": "that of the files",
            "files": {split: [str(f) for f in paths] for split, paths in files.items()},
        },
        found={"skipped": skipped},
    )


def _without(train: Mapping[Path, str], validation: Mapping[Path, str]) -> dict[Path, str]:
    held_out = {path.resolve() for path in validation}
    left = {path: key for path, key in train.items() if path.resolve() not in held_out}
    if not left:
        raise ValueError(f"train_files: all {len(train)} files are validation_files as well")
    return left


def _fingerprint(files: Mapping[str, Mapping[Path, str]], text_column: str) -> str:
    def entry(path: Path, key: str) -> tuple:
        try:
            stat = path.stat()
        except OSError:  # found by a glob, unreadable: reading it will say why
            return (str(path.absolute()), key)
        return (str(path.absolute()), key, stat.st_size, stat.st_mtime_ns)

    identity = {split: [entry(*f) for f in found.items()] for split, found in files.items()}
    return hashlib.sha256(json.dumps([identity, text_column]).encode()).hexdigest()[:16]


def _read_all(
    argument: str,
    files: Mapping[Path, str],
    named: set[Path],
    text_column: str,
    skipped: dict[str, str],
) -> list[tuple[str, str]]:
    """(key, text) of every document; a file that was not named literally may be unusable."""
    texts = []
    for path, key in files.items():
        try:
            found = read_documents(path, text_column)
        except UnusableFile as error:
            if path in named:
                raise
            skipped[str(path)] = error.reason
            continue
        rows = is_json_lines(path)
        texts += [(text_key(text) if rows else key, text) for text in found]
    if not texts:
        first, reason = next(iter(skipped.items()))
        raise ValueError(
            f"{argument}: none of the {len(files)} files found is usable; {first} {reason}"
        )
    return texts


def _split(texts: list[tuple[str, str]]) -> Iterator[Document]:
    fractions = _fractions(texts)
    held_out = _below(fractions, VALIDATION_SHARE)
    if not held_out or len(held_out) == len(fractions):
        texts = _pieces(texts)
        fractions = _fractions(texts)
        # the smallest hash stands in where so few pieces leave none below the threshold
        held_out = _below(fractions, max(VALIDATION_SHARE, min(fractions.values())))
    for _, text in texts:
        yield Document("validation" if text in held_out else "train", text)


def _fractions(texts: list[tuple[str, str]]) -> dict[str, float]:
    """Where each text stands in [0, 1): by its first key, so that no copy is in another split."""
    fractions = {}
    for key, text in texts:
        if text not in fractions:
            fractions[text] = hash_fraction(VERSION, key)
    return fractions


def _below(fractions: Mapping[str, float], share: float) -> set[str]:
    return {text for text, fraction in fractions.items() if fraction <= share}


def _pieces(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    total = sum(len(text) for _, text in texts)
    size = min(PIECE_CHARS, max(1, total // 20))
    pieces = []
    for key, text in texts:
        start, number = 0, 0
        while start < len(text):
            end = text.find("\n", start + size) + 1 or len(text)
            pieces.append((f"{key}:{number}", text[start:end]))
            start, number = end, number + 1
    return pieces
