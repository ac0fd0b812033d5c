# SPDX-License-Identifier: Apache-2.0
"""Compiled counting of one n-gram order."""

import numba
import numpy as np

_FREE = -1


@numba.njit(cache=True)
def _slot(keys, key):
    """Where `key` is in the open-addressing table `keys`, or the free slot where it belongs."""
    mask = len(keys) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(20)) & mask
    while keys[slot] != key and keys[slot] != _FREE:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _grown(keys, values):
    """The same table with four times as many slots."""
    bigger = np.full(4 * len(keys), _FREE, np.int64)
    moved = np.empty(len(bigger), np.int32)
    for old in range(len(keys)):
        if keys[old] != _FREE:
            slot = _slot(bigger, keys[old])
            bigger[slot] = keys[old]
            moved[slot] = values[old]
    return bigger, moved


@numba.njit(cache=True)
def count_order(order, contexts, train, train_ids, text, text_ids, probability):
    """Count order `order` on `train` and fold it into the probability of each byte of `text`.

    Args:
        contexts: how many different strings of `order` bytes `train` has.
        train, text: bytes.
        train_ids, text_ids: in: the number of the `order` bytes that end at each position, -1
            where there is none or `train` lacks them; out: the same for `order` + 1 bytes.
        probability: in: of order - 1; out: of order.

    Returns:
        how many different strings of `order` + 1 bytes `train` has.
    """
    keys = np.full(1 << 16, _FREE, np.int64)
    values = np.empty(1 << 16, np.int32)
    counts = np.zeros(1 << 15, np.int32)
    total = np.zeros(contexts, np.int32)
    distinct = np.zeros(contexts, np.int32)
    grams = 0
    # backwards, so that numbers are replaced after both uses
    for i in range(len(train) - 1, order - 1, -1):
        context = train_ids[i - 1] if order else 0
        key = np.int64(train_ids[i]) * 256 + train[i - order]
        slot = _slot(keys, key)
        if keys[slot] == _FREE:
            keys[slot] = key
            values[slot] = grams
            distinct[context] += 1
            if grams == len(counts):
                larger = np.zeros(2 * grams, np.int32)
                larger[:grams] = counts
                counts = larger
            gram = grams
            grams += 1
            if 2 * grams > len(keys):
                keys, values = _grown(keys, values)
        else:
            gram = values[slot]
        counts[gram] += 1
        total[context] += 1
        train_ids[i] = gram
    train_ids[: min(order, len(train))] = -1
    for i in range(len(text) - 1, order - 1, -1):
        context = text_ids[i - 1] if order else 0
        gram = -1
        if text_ids[i] >= 0:
            key = np.int64(text_ids[i]) * 256 + text[i - order]
            slot = _slot(keys, key)
            if keys[slot] == key:
                gram = values[slot]
        if context >= 0 and total[context] > 0:
            seen = counts[gram] if gram >= 0 else 0
            kinds = distinct[context]
            probability[i] = (seen + kinds * probability[i]) / (total[context] + kinds)
        text_ids[i] = gram
    text_ids[: min(order, len(text))] = -1
    return grams
