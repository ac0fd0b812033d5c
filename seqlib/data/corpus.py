# SPDX-License-Identifier: Apache-2.0
"""A prepared corpus on disk: documents by split, and a manifest that says what they are."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from .cache import atomic_directory, check_size, read_about
from .splits import SPLITS

logger = logging.getLogger(__name__)

SEPARATOR = b"\0"


class Document(NamedTuple):
    """One text on its way into a corpus: its split and its content."""

    split: str
    text: str


class Documents(Sequence[str]):
    """The texts of one split, read from disk as they are asked for.

    `stream` holds all documents as UTF-8, each followed by one NUL byte; `offsets` [n+1] says
    where each one starts. Evaluation counts these bytes, separators included.
    """

    def __init__(self, folder: Path, split: str, sha256: str):
        self.folder, self.split, self.sha256 = folder, split, sha256
        self.offsets: np.ndarray = np.load(folder / f"{split}.npy")

    @property
    def stream(self) -> np.ndarray:
        """Every byte of the split, [num_bytes] uint8, memory-mapped."""
        return np.memmap(self.folder / f"{self.split}.bin", np.uint8, "r")

    @property
    def num_bytes(self) -> int:
        """Bytes of text with one separator per document."""
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        start, end = int(self.offsets[i]), int(self.offsets[i + 1])
        return self.stream[start : end - len(SEPARATOR)].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        stream = self.stream
        for start, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield stream[start : end - len(SEPARATOR)].tobytes().decode()


@dataclass(frozen=True)
class Corpus:
    """Documents by split (`corpus["train"]`) with the manifest written when they were prepared.

    `manifest` holds name, versions, licence, per-split counts and digests, the number of files
    skipped, and `sha256`, which belongs beside every score: scores from different digests can't
    be compared.
    """

    splits: Mapping[str, Documents]
    manifest: Mapping[str, Any]

    def __getitem__(self, split: str) -> Documents:
        if split not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {split!r}")
        return self.splits[split]

    @property
    def sha256(self) -> str:
        """Digest of every prepared byte and of the versions it came from."""
        return self.manifest["sha256"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a corpus that is not in the cache is made.

    Attributes:
        name: what the corpus is called in messages and in the manifest.
        folder: the directory below the cache root that will hold it.
        documents: called once; yields documents in a fixed order.
        about: manifest entries known beforehand: licence, versions, ...
        found: manifest entries that `documents` fills in while it runs: files skipped, ...
        required: splits that must not come out empty.
    """

    name: str
    folder: str
    documents: Callable[[], Iterable[Document]]
    about: Mapping[str, Any]
    found: dict[str, Any] = field(default_factory=dict)
    required: Sequence[str] = ("train", "validation")


def open_or_prepare(root: Path, preparation: Preparation) -> Corpus:
    """The corpus from the cache, made first when it is not there.

    Raises:
        ValueError: a required split has no document, or the cached files are damaged.
        OSError: the cache can't be written.
    """
    target = root / preparation.folder
    if not (target / "manifest.json").is_file():
        logger.info("preparing %s in %s", preparation.name, target)
        with atomic_directory(target) as scratch:
            _write(scratch, preparation)
    return _open(target)


def _write(folder: Path, preparation: Preparation) -> None:
    counts = {}
    writers = {split: _SplitWriter(folder, split) for split in SPLITS}
    try:
        for document in preparation.documents():
            writers[document.split].add(document.text)
    finally:
        for split, writer in writers.items():
            counts[split] = writer.close()
    for split in preparation.required:
        if counts[split]["documents"] == 0:
            others = ", ".join(f"{s} {c['documents']}" for s, c in counts.items())
            raise ValueError(
                f"{preparation.name} has no documents in its {split} split (documents: {others})"
            )
    manifest = {"name": preparation.name, **preparation.about, **preparation.found}
    identity = {"splits": counts, "versions": manifest.get("versions", {})}
    manifest["sha256"] = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    manifest["splits"] = counts
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    # file names in it need not be UTF-8
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8", errors="replace")


class _SplitWriter:
    """Appends documents to one split's files and hashes them on the way."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self.file = (folder / f"{split}.bin").open("wb")
        self.offsets = [0]
        self.digest = hashlib.sha256()

    def add(self, text: str) -> None:
        # lone surrogates (JSON can spell them) have no UTF-8 form and become "?"
        data = text.encode("utf-8", "replace")
        if data:
            data += SEPARATOR
            self.file.write(data)
            self.digest.update(data)
            self.offsets.append(self.offsets[-1] + len(data))

    def close(self) -> dict[str, Any]:
        self.file.close()
        np.save(self.folder / f"{self.split}.npy", np.asarray(self.offsets, np.int64))
        documents, size = len(self.offsets) - 1, self.offsets[-1]
        return {"documents": documents, "bytes": size, "sha256": self.digest.hexdigest()}


def _open(folder: Path) -> Corpus:
    manifest = read_about(folder / "manifest.json")
    splits = {}
    for split, entry in manifest["splits"].items():
        check_size(folder / f"{split}.bin", entry["bytes"])
        if entry["documents"]:
            splits[split] = Documents(folder, split, entry["sha256"])
    if manifest.get("skipped"):
        first, reason = next(iter(manifest["skipped"].items()))
        logger.warning(
            "%s: %d files skipped, the first one %s: %s",
            manifest["name"], len(manifest["skipped"]), first, reason,
        )  # fmt: skip
    return Corpus(splits, manifest)
