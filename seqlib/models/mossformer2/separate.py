# SPDX-License-Identifier: Apache-2.0
"""A recording in, its sources out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from ...audio import AudioError, audio_info, check_samples, read_audio
from ...audio import resample as to_rate
from .chunked import run_in_chunks
from .configuration import MossFormer2Config
from .enhancement import MossFormer2ForSpeechEnhancement
from .modeling import MossFormer2ForSpeechSeparation

# Seconds of a window and of what two of them share. A speaker's pauses are mostly shorter than
# half a window, so that somebody can be heard wherever two of them meet.
CHUNK_SECONDS, OVERLAP_SECONDS = 8.0, 2.0


def separate(
    audio: str | Path | np.ndarray,
    model: str | Path | PreTrainedModel,
    sampling_rate: int | None = None,
    *,
    chunk_seconds: float | None = CHUNK_SECONDS,
    overlap_seconds: float = OVERLAP_SECONDS,
    resample: bool = False,
) -> np.ndarray:
    """The sources in a recording, as long as it is.

    Recordings longer than `chunk_seconds` are taken in windows (`run_in_chunks`): memory is the
    network's for one window, and that of the recording and the sources.

    Args:
        audio: a file, or samples [T].
        model: a separation or enhancement network, its folder or its name on the Hub.
        sampling_rate: samples per second of an array; by default the model's. Files know theirs.
        chunk_seconds: the longest recording that is taken as one; with None every one is.
        overlap_seconds: what two windows share, at most half of one.
        resample: bring another rate to the model's, and the sources back.

    Returns:
        float32 [C, T], one row for every speaker; [1, T] of an enhancement network.

    Raises:
        AudioError: a damaged file, another rate without `resample`, several channels, NaN or
            infinite samples, silence, or fewer samples than the network has to see.
        TypeError: whole numbers as samples, or a model of another kind.
        ValueError: windows out of range.
    """
    network = model if isinstance(model, PreTrainedModel) else load_network(model)
    wanted = network.config.sample_rate
    if isinstance(audio, str | Path):
        samples, rate = read_audio(audio), audio_info(audio).sampling_rate
        name = str(audio)
    else:
        samples, rate, name = audio, sampling_rate or wanted, "audio"
    if rate != wanted and not resample:
        raise AudioError(
            f"{name} must have the model's {wanted} samples per second, got {rate}; "
            "resample=True changes the rate and brings the sources back to it"
        )
    samples = check_samples(samples, 1, name)
    length = len(samples)
    if rate != wanted:
        samples = to_rate(samples, rate, wanted)
    samples = check_samples(samples, network.config.min_samples, name)
    sources = separate_samples(
        network,
        torch.from_numpy(samples),
        chunk_seconds=chunk_seconds,
        overlap_seconds=overlap_seconds,
    )
    if rate == wanted:
        return sources.numpy()
    # what rounding up twice added is cut off
    return np.stack([to_rate(source, wanted, rate)[:length] for source in sources.numpy()])


def separate_samples(
    network: PreTrainedModel,
    samples: Tensor,
    *,
    chunk_seconds: float | None = CHUNK_SECONDS,
    overlap_seconds: float = OVERLAP_SECONDS,
) -> Tensor:
    """[T] samples at the model's rate to float32 [C, T] on the CPU, in evaluation mode."""
    if not isinstance(network, MossFormer2ForSpeechSeparation | MossFormer2ForSpeechEnhancement):
        raise TypeError(f"model must separate or enhance speech, got {type(network).__name__}")
    rate, shortest = network.config.sample_rate, network.config.min_samples
    window = len(samples) if chunk_seconds is None else round(chunk_seconds * rate)
    if window < shortest:
        raise ValueError(
            f"chunk_seconds must be at least {shortest / rate}, {shortest} samples, "
            f"got {chunk_seconds}"
        )
    overlap = window // 2 if chunk_seconds is None else round(overlap_seconds * rate)

    def run(chunk: Tensor) -> Tensor:
        values = chunk.to(network.device, network.dtype)
        return network(input_values=values).sources.float().cpu()

    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            sources = run_in_chunks(run, samples, window=window, overlap=overlap)
    finally:
        network.train(training)
    return sources


def load_network(name: str | Path, **kwargs: Any) -> PreTrainedModel:
    """The separation or enhancement network in a folder or of that name on the Hub.

    Raises:
        TypeError: a model of another architecture.
    """
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(name)
    if not isinstance(config, MossFormer2Config):
        raise TypeError(
            f"model must be a {MossFormer2Config.model_type!r} model, got {config.model_type!r}"
        )
    enhances = config.input_features is not None
    cls = MossFormer2ForSpeechEnhancement if enhances else MossFormer2ForSpeechSeparation
    return cls.from_pretrained(name, config=config, **kwargs)
