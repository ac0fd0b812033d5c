# SPDX-License-Identifier: Apache-2.0
"""Tokenizers give text back byte for byte, agree with sentencepiece and depend on text alone."""

import contextlib
import random
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from seqlib.data import byte_tokenizer, load_corpus, shuffled_prefix, train_tokenizer
from seqlib.data import tokenizer as module
from seqlib.data.encoding import encode_documents


def sample_documents(count=60, seed=0):
    """Code-like lines: indents, invented words, digits, punctuation, some accents."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bcdfghklmnprst" for v in "aeiou"] + ["é", "_", "ion", "self."]
    lines = []
    for _ in range(count * 40):
        words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(5)]
        words[rng.randrange(5)] = rng.choice(["def", "return", "(x)", "12 345", "the", "<y>:"])
        lines.append(" " * rng.choice([0, 4, 8]) + " ".join(words))
    return ["\n".join(lines[i * 40 : (i + 1) * 40]) for i in range(count)]


@pytest.fixture(scope="module", params=["bpe", "unigram", "bytes"])
def tokenizer(request):
    if request.param == "bytes":
        return byte_tokenizer()
    return train_tokenizer(sample_documents(), 500, request.param)


@pytest.fixture(scope="module", params=["fresh", "reloaded"])
def any_tokenizer(request, tokenizer, tmp_path_factory):
    if request.param == "fresh":
        return tokenizer
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    assert not (folder / "tokenizer.model").exists()
    return AutoTokenizer.from_pretrained(folder)


STRINGS = [
    "",
    " ",
    "   ",
    "  a   b  ",
    "\t\tx\t",
    "a\r\nb\n\n\rc",
    "a\0b\0",
    "é e\u0301",
    "中文字符",
    "🙂👩\u200d💻",
    "\ufeffbom",
    "\x7f\x80\xa0\u2028",
    "<0x41> <0x0A>",
    "def f(x):\n    return 12345",
    "</s> <s> <pad> <unk>",
    "\U0010ffff\ue000\ufffd",
]


@pytest.mark.parametrize("text", STRINGS)
def test_text_comes_back(any_tokenizer, text):
    ids = any_tokenizer(text, split_special_tokens=True)["input_ids"]
    assert any_tokenizer.decode(ids) == text
    assert any_tokenizer.unk_token_id not in ids
    assert not set(ids) & {0, 1, 2, 3}, "no special token comes out of text, and none is added"


def test_random_text_comes_back(any_tokenizer):
    rng = random.Random(1)
    texts = [bytes(rng.choices(range(256), k=300)).decode("latin-1") for _ in range(20)]
    planes = [c for c in range(1, 0x110000, 97) if not 0xD800 <= c < 0xE000 and c != 0x2581]
    texts += ["".join(map(chr, rng.choices(planes, k=200))) for _ in range(20)]
    for text in texts:
        ids = any_tokenizer(text, split_special_tokens=True)["input_ids"]
        assert any_tokenizer.decode(ids) == text
    for text, ids in zip(texts, encode_documents(any_tokenizer, texts), strict=True):
        assert ids.tolist() == any_tokenizer(text, split_special_tokens=True)["input_ids"]


def test_special_tokens_in_text_become_tokens_only_when_asked(tokenizer):
    assert tokenizer("</s>")["input_ids"] == [3]
    assert 3 not in next(encode_documents(tokenizer, ["</s>"]))
    # encoding documents literally left the tokenizer as it was
    assert tokenizer("</s>")["input_ids"] == [3]


def test_ids_padding_and_special_tokens(any_tokenizer):
    names = ("pad", "unk", "bos", "eos")
    assert [getattr(any_tokenizer, f"{n}_token_id") for n in names] == [0, 1, 2, 3]
    batch = any_tokenizer(["aaa b", "a"], padding=True)
    assert batch["input_ids"][1][0] == 0
    assert batch["attention_mask"][1][-1] == 1
    assert any_tokenizer.padding_side == "left"


def test_byte_tokenizer_is_byte_plus_four():
    tokenizer = byte_tokenizer()
    every = "".join(map(chr, range(256)))
    assert len(tokenizer) == 260
    assert tokenizer(every)["input_ids"] == [b + 4 for b in every.encode()]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ids_equal_sentencepiece(kind, monkeypatch):
    kept = []
    train = module._train_sentencepiece
    monkeypatch.setattr(
        module, "_train_sentencepiece", lambda *a: kept.append(train(*a)) or kept[-1]
    )
    tokenizer = train_tokenizer(sample_documents(), 500, kind)
    assert len(tokenizer) == kept[0].get_piece_size() == 500
    texts = [*sample_documents(5, seed=7), *(s for s in STRINGS if "\0" not in s)]
    for text in texts:
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        assert ids == kept[0].encode(text), text[:40]


def test_a_wrong_conversion_is_caught(monkeypatch):
    monkeypatch.setattr(module, "_merges", lambda vocab, scores: [])
    with pytest.raises(RuntimeError, match="differs from sentencepiece at token"):
        train_tokenizer(sample_documents(), 500)


def test_a_wrong_likelihood_is_caught(monkeypatch):
    unigram = module.models.Unigram

    def flat(entries, **options):
        return unigram([(piece, -1.0) for piece, _ in entries], **options)

    monkeypatch.setattr(module.models, "Unigram", flat)
    with pytest.raises(RuntimeError, match="differs from sentencepiece at token"):
        train_tokenizer(sample_documents(), 500, "unigram")


@pytest.mark.parametrize(
    ("kind", "score", "equal"),
    [
        ("unigram", -3.0, True),
        ("unigram", -3.1, False),
        ("bpe", -3.0, False),
    ],
)
def test_pieces_that_are_equally_likely_may_differ(kind, score, equal):
    def tokenizer(texts, **options):
        return {"input_ids": [[7, 4, 5]]}

    scores = {4: -1.0, 5: -3.0, 6: score, 7: -2.0}
    spm = SimpleNamespace(encode=lambda texts: [[7, 6, 4]], get_score=scores.__getitem__)
    expected = contextlib.nullcontext() if equal else pytest.raises(RuntimeError, match="token 1")
    with expected:
        module._check_equal(tokenizer, spm, ["a row"], kind)


def test_unigrams_of_real_code(tmp_path):
    """Rows of dashes have many spellings of one likelihood."""
    corpus = load_corpus("pystdlib", cache_dir=tmp_path)
    documents = shuffled_prefix(corpus["train"], 1_000_000)
    tokenizer = train_tokenizer(documents, 4000, "unigram")
    assert tokenizer.decode(tokenizer(documents[0])["input_ids"]) == documents[0]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_twice_gives_the_same_file(kind):
    first, second = (train_tokenizer(sample_documents(), 500, kind) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_every_part_of_a_long_corpus_counts(monkeypatch):
    monkeypatch.setattr(module, "TRAINING_BYTES", 200_000)
    sources = [["alpha beta\n" * 100] * 200, sample_documents(), ["wuxi wuxi\n" * 100] * 200]
    tokenizer = train_tokenizer([d for source in sources for d in source], 500)
    assert len(tokenizer("alpha wuxi")["input_ids"]) <= 3


def test_runs_of_spaces_are_single_tokens():
    tokenizer = train_tokenizer(sample_documents(), 500)
    assert len(tokenizer("        return")["input_ids"]) <= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["abc " * 50], 300, "wordpiece"), "kind must be one of bpe, unigram, got 'wordpiece'"),
        ((sample_documents(2), 100), "vocab_size=100 cannot be trained"),
        ((sample_documents(2), 50_000), "vocab_size=50000 cannot be trained"),
        (([], 300), "documents must hold text to train on, got none"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(*arguments)


def test_encoding_needs_a_fast_tokenizer():
    with pytest.raises(TypeError, match="tokenizer must be a fast tokenizer, got str"):
        next(encode_documents("gpt2", ["a"]))
