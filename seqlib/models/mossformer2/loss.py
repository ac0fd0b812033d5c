# SPDX-License-Identifier: Apache-2.0
"""The separation loss: negative SI-SNR of the best assignment of estimates to sources."""

import itertools

import torch
from torch import Tensor

_EPS = 1e-8


def pairwise_loss(sources: Tensor, labels: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Negative scale-invariant signal-to-noise ratio in dB of every estimate and every label.

    Both lose their mean; with alpha = <e,s> / (|s|^2 + eps), p = alpha s and n = e - p it is
    -10 log10(|p|^2 / (|n|^2 + eps) + eps), eps = 1e-8. A silent label gives +80.

    Args:
        sources: [B, C, T] estimates; labels: [B, C, T].
        lengths: [B] samples that count, from the first on; all by default.

    Returns:
        [B, C (estimate), C (label)], float32 at least.

    Raises:
        ValueError: shapes that disagree.

    Source: arXiv 1811.02508; the places of eps as in SpeechBrain.
    """
    if sources.dim() != 3 or sources.shape != labels.shape:
        raise ValueError(
            "sources and labels must have one shape (B, C, T), got "
            f"{tuple(sources.shape)} and {tuple(labels.shape)}"
        )
    wide = torch.promote_types(sources.dtype, torch.float32)
    e, s = sources.to(wide), labels.to(wide)
    if lengths is None:
        e, s = (x - x.mean(-1, keepdim=True) for x in (e, s))
    else:
        lengths = lengths.to(e.device)
        counts = torch.arange(e.shape[-1], device=e.device) < lengths[:, None]  # [B,T]
        e, s = (_centred(x, counts[:, None], lengths) for x in (e, s))
    alpha = (e @ s.mT) / (s.square().sum(-1)[:, None] + _EPS)  # [B,C,C]
    p = alpha[..., None] * s[:, None]  # [B,C,C,T]
    n = e[:, :, None] - p
    ratio = p.square().sum(-1) / (n.square().sum(-1) + _EPS)
    return -10 * torch.log10(ratio + _EPS)


def best_assignment(pairwise: Tensor) -> tuple[Tensor, Tensor]:
    """The assignment of estimates to labels with the smallest mean loss.

    All orders are tried for up to 3 sources, beyond that a linear assignment is solved.

    Args:
        pairwise: [B, C, C] as `pairwise_loss` returns it.

    Returns:
        loss: [B].
        assignment: [B, C] int64, the label of every estimate.
    """
    B, C, _ = pairwise.shape
    if C <= 3:
        orders = torch.tensor(list(itertools.permutations(range(C))), device=pairwise.device)
        means = pairwise[:, torch.arange(C, device=pairwise.device), orders].mean(-1)
        assignment = orders[means.detach().argmin(-1)]
    else:
        from scipy.optimize import linear_sum_assignment

        costs = pairwise.detach().nan_to_num(nan=0.0).cpu().numpy()
        found = [linear_sum_assignment(cost)[1].tolist() for cost in costs]
        assignment = torch.tensor(found, device=pairwise.device).view(B, C)
    return pairwise.gather(2, assignment[..., None])[..., 0].mean(-1), assignment


def si_snr_pit_loss(
    sources: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    threshold: float | None = None,
) -> Tensor:
    """The mean over mixtures of the loss of the best assignment, a scalar in dB.

    Args:
        sources, labels: [B, C, T]; lengths: [B], all samples by default.
        threshold: mixtures whose loss is not above it don't count. Where none is left the loss
            is 0 and so are its gradients.

    Raises:
        ValueError: shapes that disagree.
    """
    loss, _ = best_assignment(pairwise_loss(sources, labels, lengths))
    if threshold is None:
        return loss.mean()
    counts = ~(loss <= threshold)  # so that NaN counts and is seen
    return torch.where(counts, loss, 0).sum() / counts.sum().clamp(min=1)


def _centred(x: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """x [B, C, T] without its mean where counts [B, 1, T], and 0 elsewhere."""
    x = x.where(counts, 0)
    mean = x.sum(-1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
    return (x - mean).where(counts, 0)
