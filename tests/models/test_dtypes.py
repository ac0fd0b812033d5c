# SPDX-License-Identifier: Apache-2.0
"""16-bit models and autocast: outputs stay close, losses and states stay in float32."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.float() - want).norm() / want.norm()).item()


@pytest.fixture
def half(make_config, kind):
    """Made in bfloat16: decays too, unlike a model that is loaded so."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_config(kind), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    return model


@pytest.mark.parametrize("wide", [(), (1,), (1, 3)])  # nothing; vectors; and convolutions
def test_a_model_of_any_mix_of_dtypes_is_close_to_its_float32(half, ids, wide):
    want = copy.deepcopy(half).float()(ids, labels=ids)
    for module in half.modules():
        for name, parameter in module.named_parameters(recurse=False):
            of_torch = isinstance(module, nn.Linear) and name == "bias"  # has to be as the weight
            if parameter.ndim in wide and not of_torch:
                parameter.data = parameter.data.float()
    got = half(ids, labels=ids)
    assert distance(got.logits, want.logits) < 0.04  # measured: at most 0.021
    assert got.loss.dtype == torch.float32
    got.loss.backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())


def test_states_of_recurrences_are_float32_in_a_16_bit_model(half, ids):
    cache = half(ids, use_cache=True).past_key_values
    cache = half(ids[:, :1], past_key_values=cache, use_cache=True).past_key_values
    for layer, kind in zip(cache.layers, half.config.layer_types, strict=True):
        if kind == "linear_attention":
            recurrent = {n: x for n, x in layer.state.items() if "conv" not in n}
            assert recurrent
            assert {x.dtype for x in recurrent.values()} == {torch.float32}


def test_autocast_trains_close_to_float32(make_model, kind, ids):
    model = make_model(kind).train()
    want = model(ids, labels=ids)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(ids, labels=ids)
    assert got.logits.dtype == torch.bfloat16
    assert distance(got.logits, want.logits) < 0.04  # measured: at most 0.023
    assert abs(got.loss - want.loss) < 0.01  # measured: at most 0.0043
    got.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_autocast_generates_from_a_cache(make_model, kind, ids):
    model = make_model(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        first = model(ids[:, :5], use_cache=True)
        last = model(ids[:, 5:], past_key_values=first.past_key_values)
    got = torch.cat((first.logits, last.logits), 1)
    assert distance(got, model(ids).logits.detach()) < 0.04  # measured: at most 0.023
