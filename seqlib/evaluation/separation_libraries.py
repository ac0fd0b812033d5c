# SPDX-License-Identifier: Apache-2.0
"""Metrics of separated speech that other packages compute: SDR, STOI, ESTOI, PESQ."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from seqlib.mixers.names import unknown_name

from .separation import is_silent

# by metric: the module that computes it, and the package that installs the module
PACKAGES = {
    "sdr": ("fast_bss_eval", "fast-bss-eval"),
    "stoi": ("pystoi", "pystoi"),
    "estoi": ("pystoi", "pystoi"),
    "pesq": ("pesq", "pesq"),
}
PESQ_MODES = {8000: "nb", 16000: "wb"}


def installed_metrics() -> list[str]:
    """Those whose package is installed."""
    return [name for name, (module, _) in PACKAGES.items() if importlib.util.find_spec(module)]


def check_metrics(names: Sequence[str], rate: int) -> None:
    """Refuse what can't be computed, before hours are spent on what it would measure.

    Raises:
        ValueError: a name that no metric has, or PESQ at a rate that it is not defined for.
        ImportError: the package of a metric is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise unknown_name("metric", name, tuple(PACKAGES))
        module, package = PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"the metric {name!r} needs the package {package}")
        if name == "pesq" and rate not in PESQ_MODES:
            raise ValueError(f"pesq is defined at {' and '.join(map(str, PESQ_MODES))} Hz: {rate}")


def library_metric(
    name: str, estimates: Tensor, references: Tensor, mixture: Tensor, rate: int
) -> dict[str, list[float]]:
    """One metric of one mixture, per reference.

    Args:
        name: sdr, stoi, estoi or pesq (narrow band at 8 kHz, wide band at 16 kHz).
        estimates: [C, T] in the order of `references`.
        references: [C, T].
        mixture: [T].

    Returns:
        the values by name, and for sdr also "sdri", the gain over the mixture. NaN where the
        reference is silent or the metric is not defined: too short, or no speech found.
    """
    voiced = [int(i) for i in (~is_silent(references)).nonzero()]
    values = {name: [float("nan")] * len(references)}
    if name == "sdr":
        values["sdri"] = list(values["sdr"])
    if not voiced:
        return values
    chosen, found = references[voiced].double(), estimates[voiced].double()
    if name == "sdr":
        gained = _sdr(chosen, found)
        before = _sdr(chosen, mixture.double().expand_as(chosen))
        for at, value, mixed in zip(voiced, gained, before, strict=True):
            values["sdr"][at], values["sdri"][at] = value, value - mixed
        return values
    measure = _MEASURES[name]
    for at, reference, estimate in zip(voiced, chosen.numpy(), found.numpy(), strict=True):
        values[name][at] = measure(reference, estimate, rate)
    return values


def _module(name: str) -> Any:
    """Imported by name: none of them has types, and none need be there."""
    return importlib.import_module(PACKAGES[name][0])


def _sdr(references: Tensor, estimates: Tensor) -> list[float]:
    """Each estimate against its own reference; a silent estimate, which the package can't take
    a logarithm of, has minus infinity."""
    package = _module("sdr")
    values = []
    for reference, estimate in zip(references, estimates, strict=True):
        if not estimate.any():
            values.append(-float("inf"))
            continue
        values.append(float(package.sdr(reference[None], estimate[None]).squeeze()))
    return values


def _stoi(extended: bool) -> Callable[[np.ndarray, np.ndarray, int], float]:
    def measure(reference: np.ndarray, estimate: np.ndarray, rate: int) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # a warning and 1e-5 for short ones
            try:
                return float(_module("stoi").stoi(reference, estimate, rate, extended=extended))
            except RuntimeWarning:
                return float("nan")

    return measure


def _pesq(reference: np.ndarray, estimate: np.ndarray, rate: int) -> float:
    package = _module("pesq")
    try:
        return float(package.pesq(rate, reference, estimate, PESQ_MODES[rate]))
    except (package.BufferTooShortError, package.NoUtterancesError):
        return float("nan")


_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "stoi": _stoi(False),
    "estoi": _stoi(True),
    "pesq": _pesq,
}
