# SPDX-License-Identifier: Apache-2.0
"""How well sources were separated: SI-SNR, SI-SDR, SNR, and the order in which they fit best."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

MOST_PERMUTATIONS = 3  # sources up to which all orders are tried
_SILENT = 1e-12  # of the largest sample: what rounding leaves of a constant without its mean
_FINITE = 1e3  # dB that stand for infinity where orders are compared


def si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB, without means.

    Both lose their mean over time; p = (<e, r> / <r, r>) r, and the ratio is |p|^2 / |e - p|^2.
    In float64, without an epsilon: an exact estimate has infinity, a silent one minus infinity.

    Args:
        estimates, references: [..., T], broadcast against each other.

    Returns:
        [...] float64; NaN where the reference is silent.

    Raises:
        ValueError: lengths that differ, or no samples.
    """
    estimates, references = _pair(estimates, references)
    return _projected_ratio(_centred(estimates), _centred(references))


def si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB: `si_snr` with the means left in."""
    return _projected_ratio(*_pair(estimates, references))


def snr(estimates: Tensor, references: Tensor) -> Tensor:
    """|r|^2 / |r - e|^2 in dB, where the scale counts; [...] float64, NaN for a silent r."""
    estimates, references = _pair(estimates, references)
    silent = is_silent(references)
    ratio = _decibels(references.square().sum(-1), (references - estimates).square().sum(-1))
    return ratio.masked_fill(silent, torch.nan)


def is_silent(signals: Tensor) -> Tensor:
    """Where [..., T] holds nothing but a constant; [...] bool."""
    rest = _centred(signals.double()).abs().amax(-1)
    return rest <= _SILENT * signals.double().abs().amax(-1)


def best_permutation(values: Tensor) -> list[int]:
    """Which estimate belongs to each reference, by the largest mean.

    All orders are tried up to three sources, more are an assignment problem. References with NaN
    (silent ones) get whatever is left over; of equal orders the first in the dictionary wins.

    Args:
        values: [C, C] the ratio of estimate i against reference j.

    Returns:
        for each reference the index of its estimate.

    Raises:
        ValueError: estimates and references of another number, or none.
    """
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.numel() == 0:
        raise ValueError(
            "values must hold as many estimates as references, at least one of each, got "
            f"{tuple(values.shape)}"
        )
    silent = values.isnan().all(0)
    table = values.double().nan_to_num(-_FINITE, _FINITE, -_FINITE).masked_fill(silent, 0.0)
    count = len(table)
    if count > MOST_PERMUTATIONS:
        from scipy.optimize import linear_sum_assignment

        return [int(i) for i in linear_sum_assignment(table.T.cpu().numpy(), maximize=True)[1]]
    columns = torch.arange(count)
    orders = list(itertools.permutations(range(count)))
    means = [float(table[list(order), columns].sum()) for order in orders]
    return list(orders[means.index(max(means))])


def match(estimates: Tensor, references: Tensor) -> tuple[Tensor, list[int]]:
    """Estimates in the order of the references that they fit best by SI-SNR.

    Args:
        estimates, references: [C, T].

    Returns:
        ordered: [C, T].
        order: for each reference the index of its estimate.

    Raises:
        ValueError: another number of estimates than of references, or lengths that differ.
    """
    order = best_permutation(si_snr(estimates[:, None], references[None]))
    return estimates[order], order


def improvements(
    estimates: Tensor, references: Tensor, mixture: Tensor
) -> dict[str, Sequence[float]]:
    """What a separation of one mixture gained over leaving it as it is, per reference, in dB.

    Args:
        estimates: [C, T] in the order of `references` (see `match`).
        references: [C, T].
        mixture: [T].

    Returns:
        "si_snr", "si_snri", "si_sdr", "si_sdri", "snr" (with the estimate's own scale): C values
        each, NaN for silent references; those that end in i are differences to the mixture, NaN
        where the mixture is the reference already and nothing can be gained.
    """
    values: dict[str, Sequence[float]] = {}
    for name, ratio in (("si_snr", si_snr), ("si_sdr", si_sdr)):
        separated, before = ratio(estimates, references), ratio(mixture[None], references)
        gained = (separated - before).masked_fill(before == torch.inf, torch.nan)
        values |= {name: separated.tolist(), f"{name}i": gained.tolist()}
    values["snr"] = snr(estimates, references).tolist()
    return values


def _pair(estimates: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    if estimates.shape[-1:] != references.shape[-1:] or 0 in references.shape[-1:]:
        raise ValueError(
            "estimates and references must have the same number of samples, at least one, got "
            f"{tuple(estimates.shape)} and {tuple(references.shape)}"
        )
    return estimates.double(), references.double()


def _centred(signals: Tensor) -> Tensor:
    return signals - signals.mean(-1, keepdim=True)


def _projected_ratio(estimates: Tensor, references: Tensor) -> Tensor:
    silent = is_silent(references)
    energy = references.square().sum(-1).masked_fill(silent, 1.0)
    scale = (estimates * references).sum(-1) / energy
    target = scale[..., None] * references
    ratio = _decibels(target.square().sum(-1), (estimates - target).square().sum(-1))
    return ratio.masked_fill(silent.expand_as(ratio), torch.nan)


def _decibels(signal: Tensor, noise: Tensor) -> Tensor:
    """10 log10(signal / noise); no signal at all is minus infinity, whatever the noise."""
    ratio = 10 * (signal / noise).log10()
    return ratio.masked_fill(signal == 0, -torch.inf)
