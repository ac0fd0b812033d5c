# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: sentencepiece models trained here and held as fast transformers tokenizers."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .sampling import shuffled_prefix

Kind = Literal["bpe", "unigram"]

SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
SPACE = "▁"  # how sentencepiece writes a space
TRAINING_BYTES = 4_000_000  # more text changes bytes per token by less than 1 %
HELD_OUT_BYTES = 64_000
# Trainer lines above sentencepiece's limit of 4192 bytes would be dropped.
LINE_CHARS = 1_000
PROBE = "a  b\t\tc\r\nd\0 é 中文 🙂\u200d 007 <0x41> \x7f end "


def train_tokenizer(
    documents: Sequence[str], vocab_size: int, kind: Kind = "bpe"
) -> PreTrainedTokenizerFast:
    """Train a sentencepiece model and return it as a transformers tokenizer.

    Pieces are those of sentencepiece but for ties between equally likely ones.

    Text comes back byte for byte: characters outside the vocabulary are spelled in byte tokens,
    spaces and line ends are kept. Two exceptions: the text of a special token (`</s>`) becomes
    that token unless the call says `split_special_tokens=True`, and "▁" comes back as a space.
    The result depends on the documents and their order alone. Ids: pad 0, unk 1, bos 2, eos 3,
    bytes 4 to 259.

    Args:
        documents: training texts, of which 4 MB from all over are used (1 s for "bpe", 10 s for
            "unigram").
        vocab_size: how many tokens, special and byte tokens included.
        kind: "bpe" merges or "unigram" likelihood.

    Raises:
        ValueError: an unknown kind, no text, or a vocabulary too small or too large for the text.
        RuntimeError: the tokenizer disagrees with sentencepiece on held-out text.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    lines = list(_lines(shuffled_prefix(documents, TRAINING_BYTES)))
    if not any(lines):
        raise ValueError("documents must hold text to train on, got none")
    held_out = lines[::50] if len(lines) >= 100 else []
    training = [line for i, line in enumerate(lines) if i % 50 or not held_out]
    spm = _train_sentencepiece(training, vocab_size, kind)
    tokenizer = _convert(spm, kind)
    checked = "\n".join(held_out)[:HELD_OUT_BYTES].splitlines(keepends=True)
    _check_equal(tokenizer, spm, [*checked, PROBE], kind)
    return tokenizer


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte: 260 entries, id = byte + 4 after pad, unk, bos and eos."""
    alphabet = {character: byte + len(SPECIAL) for byte, character in _byte_characters().items()}
    vocab = {token: i for i, token in enumerate(SPECIAL.values())} | alphabet
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer)


def _byte_characters() -> dict[int, str]:
    """The printable character by which byte-level tokenizers write each byte.

    Printable Latin-1 bytes stand for themselves, the others for the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def _lines(documents: Iterable[str]) -> Iterator[str]:
    for document in documents:
        for line in document.split("\n"):
            yield from (line[i : i + LINE_CHARS] for i in range(0, len(line), LINE_CHARS))


def _train_sentencepiece(
    lines: list[str], vocab_size: int, kind: Kind
) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            # runs of spaces as one piece: indented code needs a third fewer tokens
            allow_whitespace_only_pieces=kind == "bpe",
            split_digits=True,
            character_coverage=0.9995,
            # what byte and special tokens are written with, so that their text never becomes them
            required_chars="<>/x0123456789ABCDEFabdknpsu",
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().rpartition("] ")[2]
        raise ValueError(f"vocab_size={vocab_size} cannot be trained: {reason}") from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _convert(spm: sentencepiece.SentencePieceProcessor, kind: Kind) -> PreTrainedTokenizerFast:
    size = spm.get_piece_size()
    pieces = [spm.id_to_piece(i) for i in range(size)]
    scores = [spm.get_score(i) for i in range(size)]
    normal = [not (spm.is_control(i) or spm.is_unknown(i) or spm.is_byte(i)) for i in range(size)]
    if kind == "bpe":
        vocab = {piece: i for i, piece in enumerate(pieces)}
        merges = _merges({p: i for p, i in vocab.items() if normal[i]}, scores)
        model = models.BPE(
            vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    else:
        # byte and special pieces must lose against their own spelling, at most 6 normal pieces
        lowest = 8 * min(s for s, n in zip(scores, normal, strict=True) if n) - 100
        entries = [(p, s if n else lowest) for p, s, n in zip(pieces, scores, normal, strict=True)]
        model = models.Unigram(entries, unk_id=1, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _wrap(tokenizer)


def _merges(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, best result first, then by the ids of the halves."""
    found = []
    for piece, i in vocab.items():
        for cut in range(1, len(piece)):
            left, right = vocab.get(piece[:cut]), vocab.get(piece[cut:])
            if left is not None and right is not None:
                found.append((-scores[i], left, right, piece[:cut], piece[cut:]))
    return [(left, right) for *_, left, right in sorted(found)]


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL.values()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def _check_equal(
    tokenizer: PreTrainedTokenizerFast,
    spm: sentencepiece.SentencePieceProcessor,
    texts: list[str],
    kind: Kind,
) -> None:
    every = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    for ours, theirs in zip(every, spm.encode(texts), strict=True):
        if ours == theirs or (kind == "unigram" and _as_likely(spm, ours, theirs)):
            continue
        pairs = zip(ours, theirs, strict=False)
        i = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
        raise RuntimeError(
            f"the converted tokenizer differs from sentencepiece at token {i}: "
            f"{ours[i : i + 5]} against {theirs[i : i + 5]}"
        )


def _as_likely(
    spm: sentencepiece.SentencePieceProcessor, ours: list[int], theirs: list[int]
) -> bool:
    """Whether two spellings are a tie, as of a row of dashes: sentencepiece adds up in float32."""
    likelihoods = (sum(map(spm.get_score, ids)) for ids in (ours, theirs))
    return math.isclose(*likelihoods, rel_tol=1e-5)
