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
from seqlib.models.lm.pooling import pool


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


def test_multi_label_losses_and_the_problem_type(make_model, ids):
    model = make_model("delta_net", SeqLMForSequenceClassification, num_labels=3)
    targets = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    outputs = model(ids, labels=targets)
    assert model.config.problem_type == "multi_label_classification"
    want = F.binary_cross_entropy_with_logits(outputs.logits, targets)
    torch.testing.assert_close(outputs.loss, want)


class TestMeans:
    @pytest.fixture
    def model(self, make_model, kind):
        return make_model(kind, SeqLMForSequenceClassification, num_labels=3, pooling="mean")

    def test_a_row_is_read_from_all_its_real_tokens(self, model, left_padded):
        ids, mask = left_padded
        rows = [row[r] for row, r in zip(ids, mask.bool(), strict=True)]
        states = [model.model(row[None]).last_hidden_state[0] for row in rows]
        want = torch.stack([model.score(state.mean(0)) for state in states])
        for given in (mask, None):  # tokens that are padding tell as much
            got = model(ids, attention_mask=given).logits
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)

    def test_the_sum_is_kept_in_float32(self):
        states = torch.full((1, 1000, 2), 1.0625).bfloat16()
        assert torch.equal(pool(states, None, "mean"), states[:, 0])
        assert torch.equal(pool(states, torch.ones(1, 1000), "mean"), states[:, 0])

    def test_a_row_of_padding_alone_is_finite(self, model, left_padded):
        ids, mask = left_padded
        mask[1] = 0
        assert model(ids, attention_mask=mask).logits.isfinite().all()

    def test_states_of_earlier_tokens_are_no_mean(self, model, ids):
        cache = model(ids, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="cache with pooling='mean' and pairs=False"):
            model(ids, past_key_values=cache)


class TestPairs:
    @pytest.fixture(params=["last", "mean"])
    def model(self, request, make_model):
        return make_model(
            "s4, s5", SeqLMForSequenceClassification, pooling=request.param, pairs=True
        )

    def test_a_pair_is_read_from_both_rows(self, model, ids, left_padded):
        padded, mask = left_padded
        model.config.pad_token_id = None  # masks alone say what is real
        got = model(ids[:, :4], pair_input_ids=padded, pair_attention_mask=mask)
        head, (a, b) = (
            model.score,
            (
                pool(model.model(rows, attention_mask=m).last_hidden_state, m, model.config.pooling)
                for rows, m in ((ids[:, :4], None), (padded, mask))
            ),
        )
        inner = F.gelu(head.inner(torch.cat((a, b, a - b, a * b), -1)))
        torch.testing.assert_close(got.logits, head.out(inner), rtol=0, atol=1e-5)
        assert got.past_key_values is None
        other = model(padded, attention_mask=mask, pair_input_ids=ids[:, :4]).logits
        assert (other - got.logits).abs().max() > 1e-3  # the order counts

    def test_padding_tokens_tell_the_same_as_masks(self, model, ids, left_padded):
        padded, mask = left_padded
        want = model(ids, pair_input_ids=padded, pair_attention_mask=mask).logits
        torch.testing.assert_close(model(ids, pair_input_ids=padded).logits, want)

    def test_pairs_of_numbers_learn_save_and_load(self, make_model, tmp_path):
        model = make_model(
            "s4, s5",
            SeqLMForSequenceClassification,
            pairs=True,
            input_features=2,
            pad_token_id=None,
            norm_type="batch",
        )
        x, y = torch.randn(3, 6, 2), torch.randn(3, 8, 2)
        model.train()(
            input_values=x, pair_input_values=y, labels=torch.tensor([0, 1, 1])
        ).loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in model.parameters())
        model.save_pretrained(tmp_path)
        again = SeqLMForSequenceClassification.from_pretrained(tmp_path)
        want = model.eval()(input_values=x, pair_input_values=y).logits
        assert torch.equal(again(input_values=x, pair_input_values=y).logits, want)

    def test_what_does_not_fit(self, model, make_model, ids):
        with pytest.raises(ValueError, match="input_ids and pair_input_ids must both be given"):
            model(ids)
        plain = make_model("s4, s5", SeqLMForSequenceClassification)
        with pytest.raises(ValueError, match="pair_input_ids must be None with pairs=False"):
            plain(ids, pair_input_ids=ids)


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
