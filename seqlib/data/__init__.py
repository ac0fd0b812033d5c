# SPDX-License-Identifier: Apache-2.0
"""Text for training: corpora, tokenizers and packed token files."""

from .corpus import Corpus, Documents
from .load import CORPORA, load_corpus
from .packing import PackedDataset, PackedTokens, pack_documents
from .sampling import joined_bytes, shuffled_prefix
from .tokenizer import byte_tokenizer, train_tokenizer

__all__ = [
    "CORPORA",
    "Corpus",
    "Documents",
    "PackedDataset",
    "PackedTokens",
    "byte_tokenizer",
    "joined_bytes",
    "load_corpus",
    "pack_documents",
    "shuffled_prefix",
    "train_tokenizer",
]
