# SPDX-License-Identifier: Apache-2.0
"""Masks computed from the references."""

import pytest
import torch

from seqlib.evaluation.oracle_masks import MASKS, oracle_scores, separate_by_oracle


def tones(*hertz, length=8000):
    t = torch.arange(length, dtype=torch.float64) / 8000
    return torch.stack([torch.sin(2 * torch.pi * f * t) for f in hertz])


@pytest.mark.parametrize("mask", MASKS)
def test_masks_part_what_does_not_overlap(mask):
    sources = tones(500, 2500)
    estimates = separate_by_oracle(sources, sources.sum(0), mask)
    # the side lobes of the window are what the two tones share
    assert (estimates - sources)[:, 400:-400].abs().max() < 1e-2


@pytest.mark.parametrize("mask", ["ideal ratio", "Wiener-like"])
def test_estimates_add_up_to_the_mixture(mask):
    sources = torch.randn(3, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    estimates = separate_by_oracle(sources, sources.sum(0), mask)
    assert (estimates.sum(0) - sources.sum(0)).abs().max() < 1e-12


def test_scores_are_improvements_over_the_mixture():
    sources = tones(500, 2500).float()
    scores = oracle_scores([{"input_values": sources.sum(0), "labels": sources}] * 2)
    assert scores["mixture"].value == pytest.approx(0.0, abs=0.01)
    assert min(scores[mask].value for mask in MASKS) > 30
    assert all(s.items == 2 for s in scores.values())
    with pytest.raises(ValueError, match=r"mask must be one of ideal ratio, .*got 'none'"):
        separate_by_oracle(sources, sources.sum(0), "none")
