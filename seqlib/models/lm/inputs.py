# SPDX-License-Identifier: Apache-2.0
"""What the arguments of a call say about its tokens: which are real, where sequences start."""

import torch
from torch import Tensor
from transformers.cache_utils import Cache


def check_inputs(
    expected: str,
    input_ids: Tensor | None,
    input_values: Tensor | None,
    inputs_embeds: Tensor | None,
) -> None:
    """Hold a call to exactly one kind of input: the one `expected` by the model, or embeddings.

    Raises:
        ValueError: none, several, or the kind that this model does not read.
    """
    given = {
        "input_ids": input_ids,
        "input_values": input_values,
        "inputs_embeds": inputs_embeds,
    }
    names = [name for name, value in given.items() if value is not None]
    if names not in ([expected], ["inputs_embeds"]):
        raise ValueError(
            f"exactly one of {expected} and inputs_embeds must be given, got "
            f"{' and '.join(names) or 'none'}"
        )


def real_tokens(attention_mask: Tensor | None, hidden_states: Tensor) -> Tensor | None:
    """The mask of this call's tokens, [B, T] bool, or None when all are real.

    Raises:
        ValueError: a mask of another shape, such as a 4-D one.
    """
    if attention_mask is None:
        return None
    B, T, _ = hidden_states.shape
    if attention_mask.ndim != 2 or attention_mask.shape[0] != B or attention_mask.shape[1] < T:
        raise ValueError(
            "attention_mask must have shape (B, T), or (B, seen + T) with a cache, and mark real "
            f"tokens with 1; expected B={B}, T={T}, got {tuple(attention_mask.shape)}"
        )
    mask = attention_mask[:, -T:].bool()
    if not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask


def boundaries(
    position_ids: Tensor, attention_mask: Tensor | None, cache: Cache | None
) -> Tensor | None:
    """`cu_seqlens` of a packed row, whose positions start again at 0; None for anything else.

    Raises:
        ValueError: positions that start again in one of several rows: packing needs B = 1.
    """
    if attention_mask is not None or cache is not None or torch.compiler.is_compiling():
        return None
    starts = position_ids == 0
    if not bool(starts[:, 1:].any()):
        return None
    if position_ids.shape[0] != 1:
        raise ValueError(
            "position_ids start again inside a row, which means packed sequences: these need a "
            f"batch size of 1, got B={position_ids.shape[0]}"
        )
    starts = starts.clone()
    starts[:, 0] = True
    length = position_ids.new_tensor([position_ids.shape[1]])
    return torch.cat((starts[0].nonzero()[:, 0].to(length.dtype), length))


def without_first_labels(labels: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Labels [1, T] with -100 at the first token of each packed sequence."""
    T = labels.shape[1]
    first = torch.zeros(T + 1, dtype=torch.bool, device=labels.device)
    starts = cu_seqlens[:-1].to(labels.device, torch.long, non_blocking=True)
    first = first.index_fill(0, starts, True)[:T]
    return labels.masked_fill(first, -100)
