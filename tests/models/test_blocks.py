# SPDX-License-Identifier: Apache-2.0
"""Blocks as state-space papers have them: kinds and places of norms, and inputs of real numbers."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from seqlib.models import SeqLMForCausalLM, SeqLMForSequenceClassification, SeqLMModel

NORMS = [(kind, place) for kind in ("rms", "layer", "batch") for place in ("pre", "post")]
BOTH_WAYS = {
    "s4": {"d_state": 16, "bidirectional": True},
    "s5": {"d_state": 16, "blocks": 2, "bidirectional": True},
}
VALUES = {"input_features": 2, "pad_token_id": None}


@pytest.fixture(params=NORMS, ids="-".join)
def norms(request) -> dict[str, str]:
    kind, place = request.param
    return {"norm_type": kind, "norm_position": place}


def disturb(model) -> None:
    """Give norms values that matter."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "norm" in name:
                tensor += 0.3 * torch.rand_like(tensor)


@pytest.mark.parametrize("width", [0, 48])
def test_a_block_is_its_formula(make_model, ids, norms, width):
    model = make_model("delta_net", SeqLMModel, intermediate_size=width, **norms)
    disturb(model)
    block = model.layers[0]
    x = model.embed_tokens(ids)
    if norms["norm_position"] == "pre":
        want = x + block.mixer(block.mixer_norm(x))[0]
        want = want + block.mlp(block.mlp_norm(want)) if width else want
    else:
        want = block.mixer_norm(x + block.mixer(x)[0])
        want = block.mlp_norm(want + block.mlp(want)) if width else want
    torch.testing.assert_close(block(x), want)
    last = x
    for layer in model.layers:
        last = layer(last)
    if norms["norm_position"] == "pre":
        last = model.norm(last)
    torch.testing.assert_close(model(ids).last_hidden_state, last)


def test_models_of_every_norm_save_load_and_generate(make_model, ids, norms, tmp_path):
    model = make_model("attention last", **norms)
    disturb(model)
    model.save_pretrained(tmp_path)
    again, report = SeqLMForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(again(ids).logits, model(ids).logits)
    options = {"max_new_tokens": 4, "do_sample": False}
    uncached = again.generate(ids, use_cache=False, **options)
    assert torch.equal(again.generate(ids, **options), uncached)


def test_norms_missing_from_a_checkpoint_are_initialised(make_model, norms, tmp_path):
    """Running averages, too: loading starts from uninitialised memory."""
    model = make_model("s4, s5", **norms)
    kept = {n: t for n, t in model.state_dict().items() if "_norm" not in n and ".norm" not in n}
    model.save_pretrained(tmp_path, state_dict=kept)
    again = SeqLMForCausalLM.from_pretrained(tmp_path)
    fresh = model.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, fresh[name]), name


def test_padding_does_not_change_what_is_learned(make_model, ids, left_padded):
    """Also with statistics of a batch: loss, gradients and running averages."""
    padded, mask = left_padded
    models = [
        make_model(
            "s4, s5",
            SeqLMForSequenceClassification,
            norm_type="batch",
            norm_position="post",
            pooling="mean",
            mixer_kwargs=BOTH_WAYS,
        ).train()
        for _ in range(2)
    ]
    # the same rows, with other padding on the other side
    other, other_mask = torch.full((3, 12), 7), torch.zeros(3, 12, dtype=torch.long)
    for row, (tokens, real) in enumerate(zip(padded, mask.bool(), strict=True)):
        n = int(real.sum())
        other[row, :n], other_mask[row, :n] = tokens[real], 1
    labels = torch.tensor([0, 1, 0])
    outputs = [
        model(rows, attention_mask=m, labels=labels)
        for model, rows, m in zip(models, (padded, other), (mask, other_mask), strict=True)
    ]
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits, rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.loss.backward()
    for (name, want), got in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if "embed" not in name:  # the padding's token has a gradient of 0 there
            torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-5, msg=name)
    for want, got in zip(models[0].buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_recomputed_activations_leave_averages_alone(make_model, ids):
    model = make_model("s4, s5", norm_type="batch").train()
    again = copy.deepcopy(model)
    # of transformers 5.23 and 5.17
    enable = getattr(again, "activation_checkpointing_enable", again.gradient_checkpointing_enable)
    enable()
    for m in (model, again):
        m(ids, labels=ids).loss.backward()
    assert all(map(torch.equal, again.buffers(), model.buffers()))
    for want, got in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad)


class TestValues:
    @pytest.fixture
    def model(self, make_model):
        return make_model("s4, s5", SeqLMForSequenceClassification, **VALUES)

    def test_numbers_in_place_of_tokens(self, model, tmp_path):
        x = torch.randn(3, 9, 2)
        want = model(input_values=x).logits
        assert model.main_input_name == model.model.main_input_name == "input_values"
        embeds = model.model.embed_values(x)
        assert torch.equal(model(inputs_embeds=embeds).logits, want)
        torch.testing.assert_close(model(input_values=x.double()).logits, want)
        names = {n for n, _ in model.named_parameters() if "embed" in n}
        assert names == {"model.embed_values.weight", "model.embed_values.bias"}
        model.save_pretrained(tmp_path)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert torch.equal(again(input_values=x).logits, want)
        assert again.config.input_features == 2

    def test_padding_of_any_content_changes_nothing(self, model):
        x, mask = torch.randn(2, 9, 2), torch.ones(2, 9, dtype=torch.long)
        mask[0, 5:] = 0
        want = torch.cat((model(input_values=x[:1, :5]).logits, model(input_values=x[1:]).logits))
        x[0, 5:] = 100.0
        got = model(input_values=x, attention_mask=mask).logits
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)

    def test_a_fresh_embedding_keeps_the_size_of_a_single_number(self, make_model):
        model = make_model("s4, s5", SeqLMModel, input_features=1, pad_token_id=None)
        weight, bias = model.embed_values.weight, model.embed_values.bias
        for tensor in (weight, bias):  # uniform in +-1
            assert tensor.abs().max() <= 1
            assert tensor.std().item() == pytest.approx(3**-0.5, rel=0.3)
        norm = model.layers[0].mixer_norm
        small, large = (norm(model.embed_values(torch.full((1, 1, 1), v))) for v in (0.5, 1.0))
        assert (small - large).abs().max() > 0.1

    def test_what_does_not_fit(self, model, make_model, ids):
        with pytest.raises(ValueError, match=r"must have shape \(B, T, 2\), got \(3, 9\)"):
            model(input_values=torch.ones(3, 9))
        with pytest.raises(ValueError, match="exactly one of input_values and inputs_embeds"):
            model(ids)
        tokens = make_model("s4, s5", SeqLMForSequenceClassification)
        with pytest.raises(ValueError, match="got input_values"):
            tokens(input_values=torch.ones(3, 9, 2))
        with pytest.raises(ValueError, match="input_features must be None to predict tokens"):
            make_model("s4, s5", **VALUES)


class TestBothWays:
    @pytest.fixture
    def options(self):
        return {"mixer_kwargs": BOTH_WAYS}

    def test_nothing_is_cached(self, make_model, ids, options):
        model = make_model("s4, s5", SeqLMForSequenceClassification, **options)
        assert model.config.use_cache is False
        outputs = model(ids)
        assert outputs.past_key_values is None
        with pytest.raises(ValueError, match="use_cache=False in a model"):
            model(ids, use_cache=True)

    def test_every_token_matters_to_the_first_state(self, make_model, ids, options):
        model = make_model("s4, s5", SeqLMModel, **options)
        changed = ids.clone()
        changed[:, -1] = ids[:, -1] % 30 + 1
        first, other = (model(x).last_hidden_state[:, 0] for x in (ids, changed))
        assert not torch.allclose(first, other)

    def test_next_tokens_are_not_predicted_from_themselves(self, make_model, options):
        with pytest.raises(ValueError, match="must not be bidirectional to predict tokens"):
            make_model("s4, s5", **options)
