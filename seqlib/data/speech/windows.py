# SPDX-License-Identifier: Apache-2.0
"""Windows of mixtures to train on, and the batches made of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .mixing import Mixture, active_level

TRIES = 10
QUIET = 1e-2  # of a source's own level, 40 dB below


def cut_window(
    signals: Mixture, frames: int, sampling_rate: int, rng: np.random.Generator
) -> Mixture:
    """`frames` samples from a random place; all of a mixture that is shorter.

    A place where a source is more than 40 dB below its own active level is drawn again, at most
    ten times, then kept.
    """
    room = signals.mixture.shape[0] - frames
    if room <= 0:
        return signals
    levels = np.asarray([active_level(s, sampling_rate) for s in signals.sources])
    start = 0
    for _ in range(TRIES):
        start = int(rng.integers(room + 1))
        part = signals.sources[:, start : start + frames].astype(np.float64)
        if (np.sqrt(np.square(part).mean(1)) >= QUIET * levels).all():
            break
    window = slice(start, start + frames)
    noise = None if signals.noise is None else signals.noise[window]
    return Mixture(signals.mixture[window], signals.sources[:, window], noise)


def example_of(signals: Mixture) -> dict[str, Tensor]:
    """A mixture as tensors: "input_values" [T] and "labels" [C, T], float32."""
    return {
        "input_values": torch.from_numpy(np.ascontiguousarray(signals.mixture)),
        "labels": torch.from_numpy(np.ascontiguousarray(signals.sources)),
    }


def collate_mixtures(examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch, padded at the end with zeros to its longest example.

    Returns:
        "input_values" [B, T], "lengths" [B] int64 and "labels" [B, C, T].

    Raises:
        ValueError: another number of sources, or labels of another length than their input.
    """
    for i, example in enumerate(examples):
        labels, length = example["labels"], len(example["input_values"])
        if labels.shape != (len(examples[0]["labels"]), length):
            raise ValueError(
                f"labels of example {i} must be {len(examples[0]['labels'])} sources of {length} "
                f"samples, got {tuple(labels.shape)}"
            )
    lengths = torch.tensor([len(e["input_values"]) for e in examples])
    shape = (len(examples), len(examples[0]["labels"]), int(lengths.max()))
    labels = examples[0]["labels"].new_zeros(shape)
    inputs = examples[0]["input_values"].new_zeros(shape[0], shape[2])
    for i, example in enumerate(examples):
        inputs[i, : lengths[i]] = example["input_values"]
        labels[i, :, : lengths[i]] = example["labels"]
    return {"input_values": inputs, "lengths": lengths, "labels": labels}
