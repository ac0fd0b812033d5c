# SPDX-License-Identifier: Apache-2.0
"""Trained models whose state-space layers hear the one frequency that S4D amplifies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqlib.data.long_range import Sequences
from seqlib.layers.ssm_init import last_spike
from seqlib.mixers.s4 import S4
from seqlib.mixers.s4_diagonal import DiagonalCore

from .classification import classify
from .tables import markdown_table, over_seeds


@dataclass(frozen=True)
class NoisyRun:
    """One trained model, tested with noise inside.

    Attributes:
        name: what tables and plots call it.
        amplitudes: of the noise.
        accuracy: the part of the test's sequences that was answered right, for each of them.
        sequences: how many were tested.
        majority: the accuracy of always giving the commonest answer.
        minutes: how long it trained.
        origin: data, settings, commit, versions: what else it was made from.
    """

    name: str
    seed: int
    amplitudes: Sequence[float]
    accuracy: Sequence[float]
    sequences: int
    majority: float
    steps: int
    minutes: float
    parameters: int
    origin: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def noise_curves(runs: Iterable[NoisyRun]) -> dict[str, list[Sequence[float]]]:
    """Accuracies by model: a line of them per seed."""
    found: dict[str, list[Sequence[float]]] = {}
    for run in runs:
        found.setdefault(run.name, []).append(run.accuracy)
    return found


def noise_table(runs: Sequence[NoisyRun]) -> str:
    """The table in Markdown, a row per model: medians over seeds (lowest to highest)."""
    amplitudes = [f"amplitude {a:g}" for a in runs[0].amplitudes]
    header = ["model", *amplitudes, "parameters", "seeds", "minutes each"]
    rows = []
    for name, accuracies in noise_curves(runs).items():
        group = [run for run in runs if run.name == name]
        minutes = sum(run.minutes for run in group) / len(group)
        about = [
            f"{group[0].parameters:,}",
            " ".join(str(run.seed) for run in group),
            f"{minutes:.1f}",
        ]
        rows.append([name, *map(over_seeds, zip(*accuracies, strict=True)), *about])
    return markdown_table(header, rows, numbers=range(1, len(header)))


def noisy_accuracies(
    model: PreTrainedModel,
    sequences: Sequences,
    amplitudes: Sequence[float],
    *,
    batch_size: int,
    seed: int = 0,
) -> list[float]:
    """The accuracy of a classifier at each amplitude of `resonant_noise`, drawn alike for all.

    Raises:
        ValueError: what `resonant_noise` refuses.
    """
    found = []
    for amplitude in amplitudes:
        with resonant_noise(model, amplitude, seed):
            found.append(classify(model, sequences, "test", batch_size).accuracy)
    return found


def as_published(model: nn.Module) -> None:
    """Take D and, in blocks with the norm behind, the residual connection out of S4 layers.

    In place, and to be done again to a model that was loaded. The published experiment has neither,
    so that everything a layer hears goes through its states.
    """
    for mixer in (module for module in model.modules() if isinstance(module, S4)):
        mixer.ssm.get_parameter("D").requires_grad_(False).zero_()
        # the block adds what the mixer read
        mixer.register_forward_hook(lambda _, args, found: (found[0] - args[0], *found[1:]))


@contextmanager
def resonant_noise(model: nn.Module, amplitude: float, seed: int = 0) -> Iterator[None]:
    """Add `amplitude r cos(omega dt_h t)` to what every diagonal S4 in `model` reads.

    r is uniform in [0, 1) per sequence and channel, dt_h is the step size that channel h has now,
    and omega the last spike of S4D-LegS of so many states, whatever the layer started from. As in
    the experiment of arXiv 2310.01698, where t starts with every sequence.

    Raises:
        ValueError: an amplitude below 0, no such layer, or one with a step size for each mode.
    """
    if not 0 <= amplitude < float("inf"):
        raise ValueError(f"amplitude must be finite and not negative, got {amplitude}")
    cores = [module for module in model.modules() if isinstance(module, DiagonalCore)]
    if not cores:
        raise ValueError("model must have a mixer s4 of mode 'diag', got none")
    for core in cores:
        if core.inv_dt.ndim != 1:
            raise ValueError("mixers s4 must have one step size per channel (dt_tie), got more")
    generator = torch.Generator().manual_seed(seed)

    def louder(core: DiagonalCore, args: tuple[Any, ...]) -> tuple[Any, ...]:
        u, *rest = args
        return (u + amplitude * _wave(core, u, generator), *rest)

    hooks = [core.register_forward_pre_hook(louder) for core in cores]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _wave(core: DiagonalCore, u: Tensor, generator: torch.Generator) -> Tensor:
    """[B, T, H] in the dtype of u; phases in float64, as they pass 1e5."""
    B, T, H = u.shape
    loudness = torch.rand(B, 1, H, generator=generator).to(u)
    t = torch.arange(T, device=u.device, dtype=torch.float64)
    step = core.dt().detach() * core.rate * last_spike(core.d_state)
    return loudness * torch.cos(t[:, None] * step).to(u.dtype)
