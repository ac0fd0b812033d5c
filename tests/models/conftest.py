# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every kind."""

from collections.abc import Callable

import pytest
import torch

from seqlib.models import SeqLMConfig, SeqLMForCausalLM

VOCABULARY = 37
PAD = 0
BLOCKS = {
    "delta_net": ["delta_net"] * 2,
    "gated_delta_net": ["gated_delta_net"] * 2,
    "delta_product": ["delta_product"] * 2,
    "mamba": ["mamba"] * 2,
    "mamba2": ["mamba2"] * 2,
    "s4, s5": ["s4", "s5"],
    "fsmn": ["fsmn", "fsmn"],
    "attention first": ["full_attention", "delta_net", "gated_delta_net"],
    "attention last": ["delta_net", "delta_product", "full_attention"],
}
OPTIONS = {
    "delta_net": {"num_heads": 2},
    "gated_delta_net": {"num_heads": 2, "head_dim": 8, "num_v_heads": 4, "expand_v": 1.0},
    "delta_product": {"num_heads": 2, "head_dim": 8, "expand_v": 1.0},
    "mamba": {"d_state": 4},
    "mamba2": {"d_state": 8, "head_dim": 16, "n_groups": 2},
    "s4": {"d_state": 16},
    "s5": {"d_state": 16, "blocks": 2},
    "fsmn": {"fsmn_order": 3, "conv_kernel_size": 4},
    "full_attention": {"num_heads": 4, "num_kv_heads": 2},
}
WITHOUT_MLP = {"mamba", "mamba2"}


def make_config(kind: str = "attention last", **changes) -> SeqLMConfig:
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 0 if kind in WITHOUT_MLP else 48,
        "block_types": BLOCKS[kind],
        "mixer_kwargs": OPTIONS,
        "initializer_range": 0.15,  # logits of size 1, so that choices are not ties
        "pad_token_id": PAD,
    }
    return SeqLMConfig(**{**fields, **changes})


def make_model(kind: str = "attention last", cls: type = SeqLMForCausalLM, **changes):
    """A model in evaluation mode, the same one for the same arguments."""
    torch.manual_seed(0)
    return cls(make_config(kind, **changes)).eval()


@pytest.fixture(name="make_config")
def _make_config() -> Callable:
    return make_config


@pytest.fixture(name="make_model")
def _make_model() -> Callable:
    return make_model


@pytest.fixture(params=BLOCKS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> SeqLMForCausalLM:
    return make_model(kind)


@pytest.fixture
def ids() -> torch.Tensor:
    """[3, 9] tokens without padding."""
    return torch.randint(1, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def left_padded(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 9, 5 and 2 real tokens, and their mask."""
    lengths = torch.tensor([[9], [5], [2]])
    mask = torch.arange(9) >= 9 - lengths
    return torch.where(mask, ids, PAD), mask.long()
