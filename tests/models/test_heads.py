# SPDX-License-Identifier: Apache-2.0
"""Classification heads, and the text-generation pipeline."""

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from seqlib.models import SeqLMForSequenceClassification, SeqLMForTokenClassification


@pytest.fixture
def sequence_model(make_model, kind):
    return make_model(kind, SeqLMForSequenceClassification, num_labels=3)


def test_a_row_is_read_at_its_last_real_token(sequence_model, left_padded):
    ids, mask = left_padded
    real = mask.bool()
    rows = [row[r] for row, r in zip(ids, real, strict=True)]
    want = torch.cat([sequence_model(row[None]).logits for row in rows])
    right = torch.zeros_like(ids)
    for b, row in enumerate(rows):
        right[b, : len(row)] = row
    for batch, given in ((ids, mask), (right, (right != 0).long()), (ids, None), (right, None)):
        got = sequence_model(batch, attention_mask=given).logits
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    states = sequence_model(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(sequence_model.score(states[:, -1]), want, rtol=0, atol=1e-5)


def test_losses_of_the_sequence_head(make_model, ids):
    model = make_model("delta_net", SeqLMForSequenceClassification, num_labels=3)
    labels = torch.tensor([0, 2, 1])
    outputs = model(ids, labels=labels)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, labels))
    model = make_model("delta_net", SeqLMForSequenceClassification, num_labels=1)
    targets = torch.randn(3)
    outputs = model(ids, labels=targets)
    torch.testing.assert_close(outputs.loss, F.mse_loss(outputs.logits[:, 0], targets))
    outputs.loss.backward()
    assert model.score.weight.grad.abs().sum() > 0


def test_the_sequence_head_refuses_packed_rows(make_model, ids):
    model = make_model("delta_net", SeqLMForSequenceClassification)
    with pytest.raises(ValueError, match="one label per row"):
        model(ids[:1], cu_seqlens=torch.tensor([0, 4, 9]))


def test_the_token_head(make_model, kind, ids, left_padded):
    model = make_model(kind, SeqLMForTokenClassification, num_labels=4)
    labels = ids % 4
    labels[0, 3] = -100
    outputs = model(ids, labels=labels)
    assert outputs.logits.shape == (3, 9, 4)
    want = F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(outputs.loss, want)
    padded, mask = left_padded
    got = model(padded, attention_mask=mask).logits[1, 4:]
    torch.testing.assert_close(got, model(padded[1:2, 4:]).logits[0], rtol=0, atol=1e-5)
    packed = model(ids.flatten()[None], cu_seqlens=torch.tensor([0, 9, 18, 27])).logits
    torch.testing.assert_close(packed.view(3, 9, 4), outputs.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("auto", "cls"),
    [
        (AutoModelForSequenceClassification, SeqLMForSequenceClassification),
        (AutoModelForTokenClassification, SeqLMForTokenClassification),
    ],
)
def test_heads_save_load_and_start_from_a_language_model(make_model, ids, tmp_path, auto, cls):
    language = make_model("attention last")
    language.save_pretrained(tmp_path / "lm")
    model, report = auto.from_pretrained(tmp_path / "lm", num_labels=5, output_loading_info=True)
    assert type(model) is cls
    assert {key.split(".")[0] for key in report["missing_keys"]} == {"score"}
    assert model.score.weight.std().item() == pytest.approx(0.15, rel=0.3)
    want = language.model(ids).last_hidden_state
    assert torch.equal(model.model(ids).last_hidden_state, want)
    model.save_pretrained(tmp_path / "head")
    again = auto.from_pretrained(tmp_path / "head")
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_the_pipeline_in_batches_equals_one_by_one(model, tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz "
    vocabulary = {"<pad>": 0, **{c: i + 1 for i, c in enumerate(letters)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", padding_side="left"
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [0, *range(28, 37)]}
    texts = ["a much longer prompt", "b", "some words"]
    generator = pipeline("text-generation", model=str(tmp_path), device="cpu")
    alone = [generator(text, **options)[0]["generated_text"] for text in texts]
    together = generator(texts, batch_size=3, **options)
    assert [row[0]["generated_text"] for row in together] == alone
    assert all(len(got) == len(text) + 6 for got, text in zip(alone, texts, strict=True))
