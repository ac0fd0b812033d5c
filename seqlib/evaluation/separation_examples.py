# SPDX-License-Identifier: Apache-2.0
"""Separated mixtures to listen to and to look at: WAV files and spectrograms."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqlib.audio import write_audio

from .curves import write_png
from .separation import match

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PEAK = 0.9
FRAME_SECONDS, HOPS_PER_FRAME = 0.032, 4
SHOWN_DECIBELS = 70.0


def write_example(
    folder: Path, name: str, mixture: Tensor, estimates: Tensor, references: Tensor, rate: int
) -> list[Path]:
    """Write `NAME-mix.wav`, `NAME-estimate1.wav`, `NAME-reference1.wav`, ... and `NAME.png`.

    Estimates come in the order of the references. A network trained on a scale-invariant ratio
    has no level of its own, so each gets the level of its reference. One factor keeps all files
    of an example below full scale.

    Args:
        mixture: [T].
        estimates, references: [C, T], in any order.

    Returns:
        the files, the picture last.
    """
    ordered, _ = match(estimates, references)
    levels = references.square().mean(-1, keepdim=True).sqrt()
    ordered = ordered * levels / ordered.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    signals = {"mix": mixture}
    for i, (estimate, reference) in enumerate(zip(ordered, references, strict=True), 1):
        signals |= {f"estimate{i}": estimate, f"reference{i}": reference}
    largest = max(float(signal.abs().max()) for signal in signals.values())
    signals = {
        key: signal * min(1.0, PEAK / max(largest, 1e-12)) for key, signal in signals.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}-{key}.wav" for key in signals]
    for file, signal in zip(files, signals.values(), strict=True):
        write_audio(file, signal.numpy(), rate)
    return [*files, plot_spectrograms(signals, rate, folder / f"{name}.png", title=name)]


def plot_spectrograms(
    signals: dict[str, Tensor], rate: int, path: Path, *, title: str = ""
) -> Path:
    """Spectrograms of signals [T] of one length into a PNG, all on the scale of the first."""
    from matplotlib.figure import Figure

    pictures = [spectrogram(signal, rate) for signal in signals.values()]
    top = float(pictures[0].max())
    figure = Figure(figsize=(9, 1.7 * len(signals)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(signals), 1, sharex=True, squeeze=False).ravel())
    seconds = len(next(iter(signals.values()))) / rate
    style: dict[str, Any] = {"vmin": top - SHOWN_DECIBELS, "vmax": top, "cmap": "magma"}
    style |= {"origin": "lower", "aspect": "auto", "extent": (0.0, seconds, 0.0, rate / 2000)}
    for panel, label, picture in zip(panels, signals, pictures, strict=True):
        panel.imshow(picture.numpy(), **style)
        panel.set(ylabel="kHz")
        panel.set_title(label, fontsize=9, loc="left")
    panels[-1].set(xlabel="seconds")
    figure.suptitle(title, fontsize=10)
    figure.colorbar(panels[0].images[0], ax=panels, label="dB", shrink=0.6)
    return write_png(figure, path)


def spectrogram(signal: Tensor, rate: int) -> Tensor:
    """Power in dB of [T], [frequencies, frames]: Hann windows of 32 ms every 8 ms."""
    size = round(FRAME_SECONDS * rate)
    spectrum = torch.stft(
        signal.float(),
        size,
        size // HOPS_PER_FRAME,
        window=torch.hann_window(size),
        pad_mode="constant",
        return_complex=True,
    )
    return 10 * (spectrum.abs().square() + 1e-12).log10()
