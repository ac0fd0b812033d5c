# SPDX-License-Identifier: Apache-2.0
"""Bits per byte of a causal language model on whole texts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from seqlib.data.encoding import encode_documents

IGNORED = -100
DEFAULT_WINDOW = 512


@dataclass(frozen=True)
class TextScore:
    """What a model needs to spell a text.

    Attributes:
        bits_per_byte: nats / ln 2 / num_bytes.
        nats: the sum over every token of the text, end-of-sequence tokens included.
        num_bytes: UTF-8 bytes of the text and one for each document's end.
        num_tokens: how many tokens were predicted.
        protocol: how context was provided, in words, to be printed beside the score; it also
            says if a tokenizer without byte tokens hid text from the model.
    """

    bits_per_byte: float
    nats: float
    num_bytes: int
    num_tokens: int
    protocol: str


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    streams: int = 8,
) -> TextScore:
    """Score a causal language model on every token of `documents`.

    The text is all documents in order, each followed by the end-of-sequence token, which counts
    as one byte (a byte model spells it as its separator). The first token is predicted after an
    end-of-sequence token, every other one after tokens that precede it, so each is predicted
    exactly once. Two ways to provide context:

    - carried state, for models whose cache has a fixed size (`carries_state`): the tokens are cut
      into `streams` contiguous runs of equal length, read side by side, `window` tokens at a
      time, with the cache passed on. A run starts from an empty state: that costs a little at
      `streams` - 1 places, never gains.
    - sliding window, for models with attention, or when `stride` is given: windows of `window`
      tokens start every `stride` tokens (half a window by default); each scores the tokens that
      no earlier one did, so those have at least `window - stride` tokens of context.

    Args:
        model: maps `input_ids` to `logits`, on any device; its mode is restored afterwards.
        tokenizer: a fast tokenizer with an end-of-sequence token.
        documents: the texts.
        window: tokens per call and sequence; by default 512, or the model's limit if smaller.
        stride: tokens between the starts of sliding windows.
        streams: how many sequences are read side by side; memory grows with
            streams * window * vocabulary.

    Raises:
        ValueError: no text, a window the model or `stride` doesn't fit, no end-of-sequence token.
    """
    carry = stride is None and carries_state(model)
    limit = None if carry else getattr(model.config, "max_position_embeddings", None)
    window = min(DEFAULT_WINDOW, limit or DEFAULT_WINDOW) if window is None else window
    if window < 1 or (limit is not None and window > limit):
        most = f" and at most the model's {limit} positions" if limit else ""
        raise ValueError(f"window must be at least 1{most}, got {window}")
    if stride is not None and not 1 <= stride <= window:
        raise ValueError(f"stride must be between 1 and window={window}, got {stride}")
    if streams < 1:
        raise ValueError(f"streams must be at least 1, got {streams}")
    tokens = _tokens(tokenizer, documents)
    num_bytes = sum(len(d.encode("utf-8", "replace")) + 1 for d in documents)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if carry:
                nats = _carried(model, tokens, window, streams)
                protocol = f"state carried over {streams} streams, {window} tokens at a time"
            else:
                stride = stride or max(window // 2, 1)
                nats = _sliding(model, tokens, window, stride, streams)
                protocol = f"sliding window of {window} tokens, stride {stride}"
    finally:
        model.train(was_training)
    unknown = _unknown(tokenizer, tokens)
    if unknown:
        protocol += f", {unknown} unknown tokens, whose text was not predicted"
    score = nats / math.log(2) / num_bytes
    return TextScore(score, nats, num_bytes, len(tokens) - 1, protocol)


def carries_state(model: PreTrainedModel) -> bool:
    """Whether a model's cache has a fixed size, so that it can run on without end."""
    layers = getattr(model.config, "layer_types", None) or ()
    attends = any("attention" in kind and kind != "linear_attention" for kind in layers)
    return bool(getattr(model, "_is_stateful", False)) and not attends


def _tokens(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> Tensor:
    """Every token, int64 [n + 1]: an end-of-sequence token, then each document and its own."""
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("tokenizer must have an eos_token, which ends documents, got None")
    if len(documents) == 0:
        raise ValueError("documents must hold at least one text, got none")
    parts = [np.asarray([end])]
    for ids in encode_documents(tokenizer, documents):
        parts += [ids, [end]]
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _unknown(tokenizer: PreTrainedTokenizerFast, tokens: Tensor) -> int:
    """How many tokens stand for any text that the vocabulary lacks, which makes a score too low."""
    unknown = tokenizer.unk_token_id
    return 0 if unknown in (None, tokenizer.eos_token_id) else tokens.tolist().count(unknown)


def _carried(model: PreTrainedModel, tokens: Tensor, window: int, streams: int) -> float:
    n = len(tokens) - 1
    streams = min(streams, n)
    length = -(-n // streams)
    inputs = torch.full((streams * length,), int(tokens[0]))
    targets = torch.full((streams * length,), IGNORED)
    inputs[:n], targets[:n] = tokens[:-1], tokens[1:]
    inputs, targets = inputs.view(streams, length), targets.view(streams, length)
    cache, nats = None, 0.0
    for start in range(0, length, window):
        part = slice(start, start + window)
        output: Any = model(
            input_ids=inputs[:, part].to(model.device), past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        nats += _nats(output.logits, targets[:, part])
    return nats


def _sliding(
    model: PreTrainedModel, tokens: Tensor, window: int, stride: int, streams: int
) -> float:
    windows = list(_windows(tokens, window, stride))
    nats = 0.0
    for i in range(0, len(windows), streams):
        inputs, targets = (torch.stack(x) for x in zip(*windows[i : i + streams], strict=True))
        output: Any = model(input_ids=inputs.to(model.device), use_cache=False)
        nats += _nats(output.logits, targets)
    return nats


def _windows(tokens: Tensor, window: int, stride: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [window]; a target scored by an earlier window is ignored."""
    n, scored = len(tokens) - 1, 0
    for start in range(0, n, stride):
        end = min(start + window, n)
        inputs = torch.full((window,), int(tokens[0]))
        targets = torch.full((window,), IGNORED)
        inputs[: end - start] = tokens[start:end]
        targets[scored - start : end - start] = tokens[scored + 1 : end + 1]
        yield inputs, targets
        scored = end
        if end == n:
            return


def _nats(logits: Tensor, targets: Tensor) -> float:
    losses = cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten().to(logits.device),
        ignore_index=IGNORED,
        reduction="none",
    )
    return float(losses.double().sum())
