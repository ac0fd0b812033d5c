# SPDX-License-Identifier: Apache-2.0
"""Documents as one memory-mapped file of token ids, and the windows a model trains on."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from .cache import atomic_directory, cache_root, check_size, read_about
from .corpus import Documents
from .encoding import encode_documents, tokenizer_digest


@dataclass(frozen=True)
class PackedTokens:
    """One split as token ids, every document followed by the end-of-sequence token.

    Attributes:
        path: the file of ids, uint16 or uint32.
        dtype: which of the two.
        num_tokens: how many ids, separators included.
        num_bytes: how many bytes of text they spell, one per separator included.
        num_documents: how many documents.
    """

    path: Path
    dtype: str
    num_tokens: int
    num_bytes: int
    num_documents: int

    @property
    def ids(self) -> np.ndarray:
        """Every id, [num_tokens], memory-mapped and read-only."""
        return np.memmap(self.path, self.dtype, "r")


def pack_documents(
    documents: Documents,
    tokenizer: PreTrainedTokenizerFast,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> PackedTokens:
    """Encode a split once; the same text and tokenizer find the file again.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token, or the packed file is damaged.
        TypeError: the tokenizer has no fast backend.
        OSError: the cache can't be written.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer must have an eos_token, which ends documents, got None")
    key = hashlib.sha256(f"{documents.sha256}:{tokenizer_digest(tokenizer)}".encode()).hexdigest()
    target = cache_root(cache_dir) / f"packed-{key[:24]}"
    if not (target / "packed.json").is_file():
        with atomic_directory(target) as scratch:
            _write(scratch, documents, tokenizer)
    about = read_about(target / "packed.json")
    tokens = PackedTokens(path=target / "ids.bin", **about)
    check_size(tokens.path, tokens.num_tokens * np.dtype(tokens.dtype).itemsize)
    return tokens


def _write(folder: Path, documents: Documents, tokenizer: PreTrainedTokenizerFast) -> None:
    # ids may have gaps, so their number is no bound
    dtype = "uint16" if max(tokenizer.get_vocab().values()) < 2**16 else "uint32"
    end = np.asarray([tokenizer.eos_token_id], dtype)
    count = 0
    with (folder / "ids.bin").open("wb") as file:
        for ids in encode_documents(tokenizer, documents):
            file.write(ids.astype(dtype).tobytes())
            file.write(end.tobytes())
            count += len(ids) + 1
    about = {
        "dtype": dtype,
        "num_tokens": count,
        "num_bytes": documents.num_bytes,
        "num_documents": len(documents),
    }
    (folder / "packed.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


class PackedDataset(Dataset[dict[str, Tensor]]):
    """Consecutive windows of packed tokens; the order of windows is the sampler's business.

    Each item is `{"input_ids", "labels"}`, int64 [sequence_length], both the same ids: causal
    language models shift labels themselves. Windows cross document boundaries, which the
    end-of-sequence token marks; the tokens after the last whole window are left out.

    Raises:
        ValueError: a window is shorter than 2 tokens or longer than the text.
    """

    def __init__(self, tokens: PackedTokens, sequence_length: int):
        if not 2 <= sequence_length <= tokens.num_tokens:
            raise ValueError(
                f"sequence_length must be between 2 and the {tokens.num_tokens} tokens of the "
                f"text, got {sequence_length}"
            )
        self.tokens, self.sequence_length = tokens, sequence_length
        self._ids = tokens.ids

    def __len__(self) -> int:
        return self.tokens.num_tokens // self.sequence_length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        i = range(len(self))[index]
        window = self._ids[i * self.sequence_length : (i + 1) * self.sequence_length]
        ids = torch.from_numpy(window.astype(np.int64))
        return {"input_ids": ids, "labels": ids.clone()}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict:
        # a pickled memory map would carry every token into each worker process
        return {"tokens": self.tokens, "sequence_length": self.sequence_length}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)
