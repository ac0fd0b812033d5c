# SPDX-License-Identifier: Apache-2.0
"""Documents to token ids, fast and with every text taken literally."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

BATCH_CHARS = 1_000_000


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, documents: Iterable[str]
) -> Iterator[np.ndarray]:
    """The int32 ids of each document, in order, without any special token added.

    The text of a special token inside a document stays text. Uses as many threads as
    `TOKENIZERS_PARALLELISM` and `RAYON_NUM_THREADS` allow; 1 MB of text in memory at a time.

    Raises:
        TypeError: the tokenizer has no fast backend.
    """
    literal = Tokenizer.from_str(serialized(tokenizer))
    literal.encode_special_tokens = True
    literal.no_truncation()
    literal.no_padding()
    for batch in _batches(documents):
        for encoding in literal.encode_batch_fast(batch, add_special_tokens=False):
            yield np.asarray(encoding.ids, np.int32)


def serialized(tokenizer: PreTrainedTokenizerFast) -> str:
    """The JSON that defines a fast tokenizer.

    Raises:
        TypeError: the tokenizer has no fast backend.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise TypeError(f"tokenizer must be a fast tokenizer, got {type(tokenizer).__name__}")
    return backend.to_str()


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of what decides a tokenizer's ids, the id that ends documents included."""
    content = f"{tokenizer.eos_token_id}:{serialized(tokenizer)}"
    return hashlib.sha256(content.encode()).hexdigest()


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
