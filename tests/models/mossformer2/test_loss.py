# SPDX-License-Identifier: Apache-2.0
"""The loss against golden vectors, and what it does with padding and exact estimates."""

import pytest
import torch
from safetensors.torch import load_file

from seqlib.models.mossformer2.loss import best_assignment, pairwise_loss, si_snr_pit_loss

from .networks import GOLDEN


@pytest.fixture(params=["two", "three"])
def golden(request):
    arrays = load_file(GOLDEN / "loss_sisnr_pit.safetensors")
    return {n.split(".")[1]: v for n, v in arrays.items() if n.startswith(request.param)}


def test_is_the_published_loss_with_gradients(golden):
    sources, labels = (golden[n].mT.contiguous() for n in ("estimate", "source"))
    sources.requires_grad_()
    pairwise = pairwise_loss(sources, labels)
    loss, assignment = best_assignment(pairwise)
    loss.sum().backward()
    torch.testing.assert_close(pairwise, golden["pairwise_neg_sisnr"], rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-12, atol=1e-10)
    assert torch.equal(assignment, golden["perm"])
    # where an estimate is exact, what is left of it is rounding: measured 9e-8 of 0.02
    exact = loss < -60
    torch.testing.assert_close(
        sources.grad.mT[~exact], golden["grad_estimate"][~exact], rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        sources.grad.mT[exact], golden["grad_estimate"][exact], rtol=1e-4, atol=1e-6
    )


def test_a_silent_label_has_a_constant_loss_and_no_gradient():
    sources = torch.randn(1, 1, 50, requires_grad=True)
    loss = si_snr_pit_loss(sources, torch.zeros(1, 1, 50))
    loss.backward()
    assert loss.item() == pytest.approx(80)
    assert not sources.grad.any()


def test_samples_behind_the_end_do_not_count():
    torch.manual_seed(0)
    sources, labels = torch.randn(2, 3, 2, 40, dtype=torch.float64).unbind(0)
    lengths = torch.tensor([40, 11, 26])
    got = si_snr_pit_loss(sources, labels, lengths)
    alone = [
        si_snr_pit_loss(sources[i : i + 1, :, :n], labels[i : i + 1, :, :n])
        for i, n in enumerate(lengths)
    ]
    torch.testing.assert_close(got, torch.stack(alone).mean(), rtol=1e-12, atol=1e-12)
    sources[1, :, 11:] = float("nan")
    assert torch.equal(si_snr_pit_loss(sources, labels, lengths), got)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_estimates_find_their_labels_in_any_order(count):
    torch.manual_seed(count)
    labels = torch.randn(3, count, 200, dtype=torch.float64)
    orders = torch.stack([torch.randperm(count) for _ in range(3)])
    sources = labels.gather(1, orders[..., None].expand_as(labels)) + 0.1
    _, assignment = best_assignment(pairwise_loss(sources, labels))
    assert torch.equal(assignment, orders)


def test_separated_mixtures_do_not_count_below_a_threshold():
    torch.manual_seed(0)
    labels = torch.randn(2, 2, 100)
    sources = torch.stack((labels[0] + 1e-3 * torch.randn(2, 100), torch.randn(2, 100)))
    sources.requires_grad_()
    loss = si_snr_pit_loss(sources, labels, threshold=-30)
    assert loss.item() == pytest.approx(si_snr_pit_loss(sources[1:], labels[1:]).item())
    loss.backward()
    assert not sources.grad[0].any()
    assert sources.grad[1].any()
    nothing = si_snr_pit_loss(sources[:1], labels[:1], threshold=-30)
    assert nothing.item() == 0
    broken = torch.full_like(sources, float("nan"))
    assert si_snr_pit_loss(broken, labels, threshold=-30).isnan()


def test_bfloat16_is_summed_in_float32():
    torch.manual_seed(0)
    labels = torch.randn(1, 2, 4000)
    sources = labels + 0.3 * torch.randn(1, 2, 4000)
    rounded = sources.bfloat16()
    want = si_snr_pit_loss(rounded.double(), labels.double())
    assert si_snr_pit_loss(rounded, labels).item() == pytest.approx(want.item(), abs=1e-4)


def test_shapes_that_differ_have_a_name():
    with pytest.raises(ValueError, match=r"one shape \(B, C, T\)"):
        si_snr_pit_loss(torch.zeros(1, 2, 5), torch.zeros(1, 3, 5))
