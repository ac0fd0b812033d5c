# SPDX-License-Identifier: Apache-2.0
"""generate() with a cache equals generate() without one, in every mode and for every model."""

import copy

import pytest
import torch
from transformers.cache_utils import Cache, DynamicCache

from seqlib.models import build_cache
from seqlib.models.cache import StateLayer

NEW = 7
PAD = 0
MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "top_p": {"do_sample": True, "top_p": 0.7, "temperature": 1.3},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampled beams": {"do_sample": True, "num_beams": 3},
    "several sequences": {"do_sample": True, "num_return_sequences": 2},
    "several beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "chunked prefill": {"do_sample": False, "prefill_chunk_size": 4},
    "prefill token by token": {"do_sample": False, "prefill_chunk_size": 1},
}


def generate(model, ids, **options):
    torch.manual_seed(5)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "suppress_tokens": [PAD], **options}
    return model.generate(ids, **options)


def uncached(model, ids, **options):
    options.pop("prefill_chunk_size", None)
    return generate(model, ids, use_cache=False, **options)


@pytest.mark.parametrize("mode", MODES)
def test_cached_equals_uncached(model, ids, mode):
    got = generate(model, ids, **MODES[mode])
    assert torch.equal(got, uncached(model, ids, **MODES[mode]))
    assert len(got.unique()) > 4  # not one token over and over


@pytest.mark.parametrize("mode", ["greedy", "beams", "chunked prefill", "prefill token by token"])
def test_left_padded_batches_equal_single_rows(model, left_padded, mode):
    ids, mask = left_padded
    got = generate(model, ids, attention_mask=mask, **MODES[mode])
    assert torch.equal(got, uncached(model, ids, attention_mask=mask, **MODES[mode]))
    for row, real, want in zip(ids, mask.bool(), got, strict=True):
        alone = generate(model, row[real][None], **MODES[mode])
        assert torch.equal(alone[0, -NEW:], want[-NEW:])


def test_amount_and_content_of_left_padding_do_not_matter(model, ids):
    want = model(ids).logits
    for amount, token in ((1, 0), (4, 7)):
        padding = torch.full((3, amount), token)
        mask = torch.cat((torch.zeros(3, amount), torch.ones(3, 9)), 1).long()
        got = model(torch.cat((padding, ids), 1), attention_mask=mask).logits[:, amount:]
        # float32 sums in other places of a chunk; measured at most 2.2e-6
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_right_padded_prefill_leaves_the_state_of_the_unpadded(model, ids):
    lengths = torch.tensor([9, 5, 2])
    mask = torch.arange(9) < lengths[:, None]
    padded = torch.where(mask, ids, 11)
    cache = model(padded, attention_mask=mask.long(), use_cache=True).past_key_values
    following = torch.randint(1, 37, (3, 4), generator=torch.Generator().manual_seed(3))
    full_mask = torch.cat((mask, torch.ones(3, 4, dtype=torch.bool)), 1).long()
    got = model(following, attention_mask=full_mask, past_key_values=cache).logits
    for b in range(3):
        alone = torch.cat((ids[b, : lengths[b]], following[b]))[None]
        want = model(alone).logits[0, -4:]
        torch.testing.assert_close(got[b], want, rtol=0, atol=1e-5)  # measured 3.5e-6


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_prefill_and_decoding_equal_the_full_forward_for_every_prompt_length(model, ids, step):
    want = model(ids).logits
    for prompt in range(1, 9):
        outputs = model(ids[:, :prompt], use_cache=True)
        logits = [outputs.logits]
        for start in range(prompt, 9, step):
            outputs = model(
                ids[:, start : start + step],
                past_key_values=outputs.past_key_values,
                use_cache=True,
            )
            logits.append(outputs.logits)
        assert outputs.past_key_values.get_seq_length() == 9
        torch.testing.assert_close(torch.cat(logits, 1), want, rtol=0, atol=1e-5)  # measured 3.5e-6


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_prompts_of_any_length_then_decoding_equal_the_full_forward(model, ids, side):
    """Rows up to two tokens shorter, also within the convolution's width; decoded with the mask."""
    want, rows = model(ids).logits, torch.arange(3)
    for prompt in range(1, 9):
        lengths = (prompt - rows).clamp_min(1)
        at = torch.arange(prompt) - (prompt - lengths[:, None] if side == "left" else 0)
        mask = (at >= 0) & (at < lengths[:, None])
        padded = torch.where(mask, ids[rows[:, None], at.clamp(0, 8)], 11)
        outputs = model(padded, attention_mask=mask.long(), use_cache=True)
        got, known = outputs.logits[mask], want[rows[:, None], at.clamp(0, 8)][mask]
        torch.testing.assert_close(got, known, rtol=0, atol=2e-5)  # measured 6e-6
        for t in range(9 - prompt):
            mask = torch.cat((mask, torch.ones(3, 1, dtype=torch.bool)), 1)
            outputs = model(
                ids[rows, lengths + t][:, None],
                attention_mask=mask.long(),
                past_key_values=outputs.past_key_values,
                use_cache=True,
            )
            known = want[rows, lengths + t]
            torch.testing.assert_close(outputs.logits[:, 0], known, rtol=0, atol=2e-5)


def test_a_batch_equals_its_rows(model, ids):
    got = model(ids).logits
    for b in range(3):
        torch.testing.assert_close(got[b], model(ids[b : b + 1]).logits[0], rtol=0, atol=1e-5)


def test_generation_goes_on_from_a_returned_cache(model, ids):
    first = generate(model, ids, do_sample=False, return_dict_in_generate=True)
    following = torch.cat((first.sequences, ids[:, :3]), 1)
    got = generate(model, following, do_sample=False, past_key_values=first.past_key_values)
    assert torch.equal(got, uncached(model, following, do_sample=False))


def test_input_embeddings_equal_input_ids(model, ids):
    embeds = model.get_input_embeddings()(ids)
    got = generate(model, None, inputs_embeds=embeds, do_sample=False)
    assert torch.equal(got, uncached(model, ids, do_sample=False)[:, -NEW:])


@torch.no_grad()
def test_a_copied_cache_goes_its_own_way_and_a_reset_one_is_new(model, ids):
    cache = model(ids[:, :5], use_cache=True).past_key_values
    other = copy.deepcopy(cache)
    want = model(ids).logits[:, 5:]
    model(ids.flip(1), past_key_values=other)
    got = model(ids[:, 5:], past_key_values=cache).logits
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    cache.reset()
    assert cache.get_seq_length() == 0
    again = model(ids, past_key_values=cache).logits
    torch.testing.assert_close(again, model(ids).logits, rtol=0, atol=1e-5)


def cache_bytes(cache, kind):
    return sum(
        x.numel() * x.element_size()
        for layer in cache.layers
        for x in layer.state.values()
        if (kind == "growing") == ("k" in layer.state)
    )


def test_bytes_of_recurrent_states_do_not_grow(model, ids):
    def after(tokens):
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        return model.generate(ids, return_dict_in_generate=True, **options).past_key_values

    short, long = after(2), after(30)
    assert cache_bytes(long, "constant") == cache_bytes(short, "constant") > 0
    assert cache_bytes(short, "growing") * (9 + 29) == cache_bytes(long, "growing") * (9 + 1)


def test_assisted_generation_is_refused(model, ids):
    for options in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(ValueError, match="assisted generation is not supported"):
            generate(model, ids[:1], do_sample=False, **options)


def test_other_caches_are_refused(model, ids):
    with pytest.raises(ValueError, match="cache_implementation must be None or 'dynamic'"):
        generate(model, ids, cache_implementation="static")
    with pytest.raises(TypeError, match="past_key_values must come from a call of this model"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="one layer per block"):
        model(ids, past_key_values=build_cache(7))
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="must hold the states of B=2 rows, got 3"):
        model(ids[:2], past_key_values=cache)


def test_eos_ends_rows_by_themselves(model, ids):
    free = generate(model, ids, do_sample=False)
    end = free[0, 9 + 3].item()
    options = {"do_sample": False, "eos_token_id": end, "min_new_tokens": 0}
    got = generate(model, ids, **options)
    assert torch.equal(got, uncached(model, ids, **options))
    after = (free[0, 9:] == end).int().argmax() + 1
    assert torch.equal(got[0, : 9 + after], free[0, : 9 + after])
    assert (got[0, 9 + after :] == PAD).all()


class TestStateLayer:
    @pytest.fixture
    def layer(self):
        layer = StateLayer()
        layer.write({"h": torch.arange(6.0).view(3, 2), "conv": torch.ones(3, 1)}, 4)
        return layer

    def test_rows_are_picked_and_repeated(self, layer):
        layer.reorder_cache(torch.tensor([2, 0, 0]))
        assert layer.state["h"].tolist() == [[4, 5], [0, 1], [0, 1]]
        layer.batch_select_indices(torch.tensor([0, 1]))
        layer.batch_repeat_interleave(2)
        assert layer.state["h"].tolist() == [[4, 5], [4, 5], [0, 1], [0, 1]]
        assert layer.state["conv"].shape == (4, 1)
        assert layer.get_seq_length() == 4
        assert layer.get_mask_sizes(3) == (7, 0)

    def test_the_container_knows_its_rows(self, layer):
        cache = Cache(layers=[StateLayer(), layer])
        assert cache.batch_size == 3
        cache.batch_repeat_interleave(2)
        assert cache.batch_size == 6
        cache.reset()
        assert cache.batch_size == -1  # transformers' word for "not yet"

    def test_states_are_not_moved_away(self, layer):
        for move in (layer.offload, layer.prefetch):
            with pytest.raises(NotImplementedError, match="a state stays where its block is"):
                move()

    def test_tokens_can_not_be_taken_back(self, layer):
        layer.crop(0)
        with pytest.raises(ValueError, match="can't be taken back by 2 tokens"):
            layer.crop(-2)

    def test_keys_and_values_are_not_for_it(self, layer):
        with pytest.raises(NotImplementedError, match="keeps a mixer's state"):
            layer.update(torch.zeros(1), torch.zeros(1))
