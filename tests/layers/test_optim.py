# SPDX-License-Identifier: Apache-2.0
"""Tags for the optimizer: who gets them, and what they may hold."""

import copy
from typing import ClassVar

import pytest
import torch
from torch import nn

from seqlib.layers.norm import RMSNorm
from seqlib.layers.optim import set_optim, tag_parameters


class Rates(nn.Module):
    no_weight_decay: ClassVar = ("skip", "absent")

    def __init__(self):
        super().__init__()
        self.rate, self.skip, self.plain = (nn.Parameter(torch.ones(2)) for _ in range(3))
        self.register_buffer("fixed", torch.ones(2))

    def optim_options(self):
        return {"rate": {"lr": 1e-3, "weight_decay": 0.0}, "fixed": {"lr": 1e-3}}


def tags(model: nn.Module) -> dict[str, dict[str, float]]:
    return {n: p._optim for n, p in model.named_parameters() if hasattr(p, "_optim")}  # pyright: ignore[reportAttributeAccessIssue]


def test_modules_name_options_of_their_own_parameters():
    model = nn.Sequential(Rates(), nn.Linear(2, 2), RMSNorm(2))
    tag_parameters(model)
    assert tags(model) == {
        "0.rate": {"lr": 1e-3, "weight_decay": 0.0},
        "0.skip": {"weight_decay": 0.0},
        "2.weight": {"weight_decay": 0.0},
    }


def test_copies_are_tagged_again():
    model = copy.deepcopy(nn.Sequential(Rates()))
    tag_parameters(model)
    want = tags(model)
    assert len(want) == 2
    tag_parameters(model)
    assert tags(model) == want


def test_a_tag_holds_what_was_given():
    parameter = nn.Parameter(torch.ones(1, device="meta"))
    set_optim(parameter, lr=1)
    assert parameter._optim == {"lr": 1.0}  # pyright: ignore[reportAttributeAccessIssue]
    set_optim(parameter, weight_decay=0.1)
    assert parameter._optim == {"weight_decay": 0.1}  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_values_that_can_not_be(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and not negative, got {value}"):
        set_optim(nn.Parameter(torch.ones(1)), **{name: value})
