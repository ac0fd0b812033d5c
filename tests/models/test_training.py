# SPDX-License-Identifier: Apache-2.0
"""What training needs: losses, accumulation, checkpointing, compilation, packing, outputs."""

import pytest
import torch
import torch.nn.functional as F

from seqlib.models.lm.inputs import without_first_labels

# torch.compile itself makes an instance of autograd.Function while tracing one.
TRACING = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def gradients(model, **inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal_gradients(got, want, tolerance):
    for name in want:
        error = (got[name] - want[name]).norm() / want[name].norm().clamp_min(1e-12)
        assert error <= tolerance, (name, error)


def test_the_loss_predicts_the_next_token_and_skips_minus_100(model, ids):
    labels = ids.clone()
    labels[:, 4] = -100
    logits = model(ids).logits[:, :-1]
    want = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(model(ids, labels=labels).loss, want)


def test_num_items_in_batch_makes_accumulation_exact(model, ids):
    labels = ids.clone()
    labels[0, 2:] = -100  # rows of different weight
    items = (labels[:, 1:] != -100).sum()
    loss, want = gradients(model, input_ids=ids, labels=labels)
    total, summed = 0, {name: torch.zeros_like(g) for name, g in want.items()}
    for row, label in zip(ids, labels, strict=True):
        part, grads = gradients(
            model, input_ids=row[None], labels=label[None], num_items_in_batch=items
        )
        total += part
        summed = {name: summed[name] + g for name, g in grads.items()}
    torch.testing.assert_close(total, loss)
    assert_equal_gradients(summed, want, 1e-5)  # measured 1.7e-6


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(model, ids, reentrant):
    model.train()
    loss, want = gradients(model, input_ids=ids, labels=ids, use_cache=True)
    options = {"use_reentrant": reentrant}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    if reentrant:
        model.enable_input_require_grads()
    again, got = gradients(model, input_ids=ids, labels=ids, use_cache=True)
    assert torch.equal(again, loss)
    assert_equal_gradients(got, want, 0)


def test_a_few_steps_learn_a_sequence_by_heart(make_model, kind, ids):
    model = make_model(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3  # from about 4; measured: at most 0.007


def test_packed_sequences_equal_separate_ones(model, ids):
    bounds = torch.tensor([0, 9, 14, 16])
    rows = [ids[0], ids[1, :5], ids[2, :2]]
    packed = torch.cat(rows)[None]
    want = torch.cat([model(row[None]).logits[0] for row in rows])
    outputs = model(packed, cu_seqlens=bounds, labels=packed)
    torch.testing.assert_close(outputs.logits[0], want, rtol=0, atol=1e-5)
    assert outputs.past_key_values is None
    losses = [F.cross_entropy(model(r[None]).logits[0, :-1], r[1:], reduction="sum") for r in rows]
    torch.testing.assert_close(outputs.loss, sum(losses) / (8 + 4 + 1))
    # a mask beside the boundaries changes nothing
    masked = model(packed, cu_seqlens=bounds, attention_mask=torch.ones_like(packed)).logits
    assert torch.equal(masked, outputs.logits)


def test_labels_of_packed_rows_may_lie_elsewhere_than_their_boundaries():
    """Here on a device that only knows shapes."""
    labels = torch.zeros(1, 9, dtype=torch.long, device="meta")
    assert without_first_labels(labels, torch.tensor([0, 4, 9])).shape == (1, 9)


def test_positions_that_start_again_are_packed_sequences(model, ids):
    packed = ids.flatten()[None, :16]
    positions = torch.cat([torch.arange(n) for n in (9, 5, 2)])[None]
    want = model(packed, cu_seqlens=torch.tensor([0, 9, 14, 16])).logits
    assert torch.equal(model(packed, position_ids=positions).logits, want)
    plain = model(packed, position_ids=torch.arange(16)[None])
    assert torch.equal(plain.logits, model(packed).logits)
    assert plain.past_key_values is not None
    with pytest.raises(ValueError, match="packed sequences: these need a batch size of 1, got B=2"):
        model(packed.expand(2, 16), position_ids=positions.expand(2, 16))


def test_packed_rows_from_the_flattening_collator(make_model, ids):
    from transformers import DataCollatorWithFlattening

    model = make_model("attention last")
    rows = [ids[0].tolist(), ids[1, :5].tolist()]
    want = torch.cat([model(torch.tensor([r])).logits[0] for r in rows])
    collator = DataCollatorWithFlattening(return_tensors="pt", return_flash_attn_kwargs=True)
    batch = collator([{"input_ids": r} for r in rows])
    for unused in ("cu_seq_lens_q", "position_ids"):  # either of the two says where rows start
        got = model(**{name: x for name, x in batch.items() if name != unused})
        torch.testing.assert_close(got.logits[0], want, rtol=0, atol=1e-5)


def test_logits_to_keep(model, ids):
    full = model(ids).logits
    assert torch.equal(model(ids, logits_to_keep=2).logits, full[:, -2:])
    assert torch.equal(model(ids, logits_to_keep=torch.tensor([1, 4])).logits, full[:, [1, 4]])


def test_outputs_as_tuple_and_hidden_states(model, ids):
    outputs = model(ids, labels=ids, output_hidden_states=True)
    states = outputs.hidden_states
    assert len(states) == model.config.num_hidden_layers + 1
    assert torch.equal(states[0], model.get_input_embeddings()(ids))
    assert torch.equal(states[-1], model.model(ids).last_hidden_state)
    loss, logits, *_ = model(ids, labels=ids, return_dict=False)
    assert torch.equal(loss, outputs.loss)
    assert torch.equal(logits, outputs.logits)
    assert model(ids, use_cache=False).past_key_values is None


def test_arguments_that_can_not_be(model, ids):
    embeds = model.get_input_embeddings()(ids)
    for both in ({"input_ids": ids, "inputs_embeds": embeds}, {}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**both)
    for shape in ((3, 1, 9, 9), (3, 8), (2, 9)):
        with pytest.raises(ValueError, match="attention_mask must have shape"):
            model(ids, attention_mask=torch.ones(shape))
    cache = model(ids[:1], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cu_seqlens does not go with past_key_values"):
        model(ids[:1], past_key_values=cache, cu_seqlens=torch.tensor([0, 9]))


@TRACING
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inductor's own import
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "block_types"),
    [
        ("aot_eager", ["full_attention", "delta_net", "gated_delta_net", "delta_product"]),
        ("aot_eager", ["mamba", "mamba2"]),
        ("aot_eager", ["s4", "s5"]),
        # compiles for ten seconds a block; these have the code of the others
        ("inductor", ["full_attention", "delta_product", "mamba2"]),
    ],
)
def test_compiled_training_without_a_graph_break(make_model, ids, backend, block_types):
    model = make_model(block_types=block_types).train()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    loss, want = gradients(model, input_ids=ids, attention_mask=mask, labels=ids)
    torch.compiler.reset()
    model.forward = torch.compile(model.forward, fullgraph=True, backend=backend)
    again, got = gradients(model, input_ids=ids, attention_mask=mask, labels=ids)
    torch.testing.assert_close(again, loss)
    assert_equal_gradients(got, want, 1e-3)
