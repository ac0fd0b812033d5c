# SPDX-License-Identifier: Apache-2.0
"""n-grams against their definition, compressors, the table beside a result, and the curve."""

import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from seqlib.data import joined_bytes, load_corpus, shuffled_prefix
from seqlib.evaluation import (
    Score,
    baseline_scores,
    compression,
    format_table,
    ngram_bits_per_byte,
    plot_losses,
    xz_bits_per_byte,
)


def witten_bell(train, validation, max_order):
    """The definition, with dictionaries and one byte at a time."""
    follow = defaultdict(Counter)
    for order in range(max_order + 1):
        for i in range(order, len(train)):
            follow[order, train[i - order : i]][train[i]] += 1
    scores = np.zeros(max_order + 1)
    for i, byte in enumerate(validation):
        p = 1 / 256
        for order in range(max_order + 1):
            seen = follow.get((order, validation[i - order : i])) if i >= order else None
            if seen:
                n, distinct = seen.total(), len(seen)
                p = n / (n + distinct) * seen[byte] / n + distinct / (n + distinct) * p
            scores[order] -= math.log2(p)
    return scores / len(validation)


def random_bytes(seed, size, symbols):
    return np.random.default_rng(seed).integers(0, symbols, size, np.uint8).tobytes()


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (random_bytes(0, 3000, 4), random_bytes(1, 500, 5)),
        (random_bytes(2, 3000, 256), random_bytes(3, 300, 256)),
        (b"abracadabra\0" * 40, b"abracadabra\0abba\0zebra"),
        (b"ab", b"abab"),
        (b"a", b"b"),
        (b"\xff\0\xff\0\0", b"\0\xff\0\0\0\xff"),
    ],
)
def test_ngrams_equal_their_definition(train, validation):
    # float64 in another order of operations: 1e-15 measured
    np.testing.assert_allclose(
        ngram_bits_per_byte(train, validation), witten_bell(train, validation, 8), rtol=1e-12
    )


def test_tables_that_grow_stay_right():
    train, validation = random_bytes(4, 50_000, 256), random_bytes(5, 2000, 256)
    np.testing.assert_allclose(
        ngram_bits_per_byte(train, validation, 3), witten_bell(train, validation, 3), rtol=1e-12
    )


def test_ngrams_on_real_code(tmp_path):
    """1 MB of the standard library; 8 MB give 4.67 3.56 2.62 2.07 1.91 1.89 1.91 1.97 2.03."""
    corpus = load_corpus("pystdlib", cache_dir=tmp_path)
    train = joined_bytes(shuffled_prefix(corpus["train"], 1_000_000))
    scores = ngram_bits_per_byte(
        train, joined_bytes(shuffled_prefix(corpus["validation"], 200_000))
    )
    assert len(scores) == 9
    assert 4.3 < scores[0] < 5.0
    assert 1.9 < min(scores) < 2.5
    assert 3 <= int(np.argmin(scores)) <= 6


def test_bad_ngram_arguments():
    with pytest.raises(ValueError, match="train and validation must hold bytes, got 0 and 1"):
        ngram_bits_per_byte(b"", b"a")
    with pytest.raises(ValueError, match="max_order must be at least 0, got -1"):
        ngram_bits_per_byte(b"a", b"a", -1)


def test_xz(monkeypatch):
    data = random_bytes(6, 20_000, 16)
    assert xz_bits_per_byte(data) == 8 * len(lzma.compress(data, preset=6)) / len(data)
    assert 4 < xz_bits_per_byte(data) < 5
    assert xz_bits_per_byte(data, after=data) < 0.1, "a text seen before costs next to nothing"
    after = random_bytes(7, 20_000, 256) + data
    whole = xz_bits_per_byte(data, after=after)
    monkeypatch.setattr(compression, "XZ_DICTIONARY", len(data))
    assert xz_bits_per_byte(data, after=after) == xz_bits_per_byte(data, after=data) != whole
    with pytest.raises(ValueError, match="data must hold bytes, got 0"):
        xz_bits_per_byte(b"")


def test_baselines_and_table():
    train, validation = b"the cat sat on the mat\0" * 500, b"the cat sat on the hat\0" * 50
    scores = baseline_scores(train, validation, max_order=5)
    assert [s.name for s in scores] == ["xz -6", "xz -6 after training text", "best byte n-gram"]
    assert scores[2].bits_per_byte == min(ngram_bits_per_byte(train, validation, 5))
    assert scores[2].note.endswith("of 0 to 5, 0.01 MB")
    table = format_table([*scores, Score("this model", 0.0001, "delta_net")]).split("\n")
    assert len({len(line) for line in table}) == 1
    assert table[2].split("|")[1:3] == [f" {'this model':25} ", "         0.000 "]
    values = [float(line.split("|")[2]) for line in table[2:]]
    assert values == sorted(values)


def test_curves_are_a_png(tmp_path):
    history = [{"step": i, "loss": 5.0 / (i + 1), "epoch": 0.1} for i in range(60)]
    history += [{"step": 30, "eval_loss": 1.0}, {"train_runtime": 3.0, "step": 60}]
    path = plot_losses(history, tmp_path / "loss.png", title="run", levels={"n-gram": 1.3})
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]
    with pytest.raises(ValueError, match="log_history must hold records with step and loss or"):
        plot_losses([{"step": 1}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
