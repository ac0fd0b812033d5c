# SPDX-License-Identifier: Apache-2.0
"""Outputs as the configuration asks for them, labels that are shifted already, implementations."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from seqlib.models import (
    SeqLMForCausalLM,
    SeqLMForSequenceClassification,
    SeqLMForTokenClassification,
    SeqLMModel,
)

HEADS = (SeqLMModel, SeqLMForCausalLM, SeqLMForSequenceClassification, SeqLMForTokenClassification)


@pytest.mark.parametrize("cls", HEADS)
def test_the_configuration_can_ask_for_tuples_and_hidden_states(make_model, ids, cls):
    model = make_model("attention last", cls, return_dict=False)
    outputs = model(ids)
    assert type(outputs) is tuple
    again = make_model("attention last", cls, output_hidden_states=True)(ids)
    assert torch.equal(again[0], outputs[0])
    assert len(again.hidden_states) == model.config.num_hidden_layers + 1


def test_hidden_states_keep_their_gradients(model, ids):
    outputs = model(ids, labels=ids, output_hidden_states=True)
    for state in outputs.hidden_states:
        state.retain_grad()
    outputs.loss.backward()
    assert all(state.grad.abs().max() > 0 for state in outputs.hidden_states)


def test_labels_that_are_shifted_already(model, ids):
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    want = model(ids, labels=ids).loss
    assert torch.equal(model(ids, labels=ids, shift_labels=shifted).loss, want)
    other = shifted.masked_fill(torch.arange(9) > 3, -100)
    assert not torch.equal(model(ids, labels=ids, shift_labels=other).loss, want)


def test_padding_on_the_right_needs_no_mask(model, ids):
    """Evaluation harnesses give none; nothing before the padding may see it."""
    want = model(ids).logits
    padded = torch.nn.functional.pad(ids, (0, 5), value=7)
    # float32 sums in other places of a chunk; measured at most 4.6e-6
    torch.testing.assert_close(model(padded).logits[:, :9], want, rtol=0, atol=1e-5)


def test_every_attention_implementation_taken_computes_the_same(make_model, ids, tmp_path):
    model = make_model("attention first")
    model.save_pretrained(tmp_path)
    for name in ("eager", "sdpa"):
        again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
        assert torch.equal(again(ids).logits, model(ids).logits)
    with pytest.raises(ValueError, match="does not support Flash Attention 2"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


# while tracing, torch itself makes an autograd.Function and reads the gradient of a block's input
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_blocks_compiled_in_place_share_one_graph_and_keep_their_names(make_model, ids):
    model = make_model(block_types=["gated_delta_net"] * 4).train()
    want, names = model(ids, labels=ids).loss, list(model.state_dict())
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    for block in model.model.layers:
        block.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(model(ids, labels=ids, use_cache=False).loss, want)
    assert len(graphs) == 1
    assert list(model.state_dict()) == names
