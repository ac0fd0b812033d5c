# SPDX-License-Identifier: Apache-2.0
"""Waveforms as overlapping windows, those of unequal lengths packed one behind the other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration import MossFormer2Config


class Frames:
    """How the mixtures of a batch are cut into windows of K samples, K / 2 apart.

    Mixtures of one length stay a batch [B, S, K]; others are packed, [1, sum of S_b, K].

    Args:
        config: of the network.
        input_values: [B, T]; attention_mask: [B, T] or None; lengths: [B] or None.

    Attributes:
        lengths: [B] int64 on the CPU, or None where all are T.
        cu_seqlens: [B+1] int64 on the CPU, boundaries of packed windows, or None.

    Raises:
        ValueError: shapes that don't fit, padding that isn't on the right, lengths out of range,
            or a mixture shorter than two windows.
    """

    def __init__(
        self,
        config: MossFormer2Config,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ):
        if input_values.dim() != 2:
            raise ValueError(
                f"input_values must have shape (B, T), one channel, got {tuple(input_values.shape)}"
            )
        self.batch, self.samples = input_values.shape
        self.kernel_size = config.encoder_kernel_size
        if self.samples < config.min_samples:
            raise ValueError(
                f"input_values must have at least {config.min_samples} samples, two frames, "
                f"got {self.samples}"
            )
        self.lengths = read_lengths(attention_mask, lengths, input_values, config.min_samples)
        self.cu_seqlens, self._order = None, None
        if self.lengths is not None:
            counts = self._windows_in(self.lengths)
            self.cu_seqlens = F.pad(counts.cumsum(0), (1, 0))
            steps = torch.arange(self._windows_in(self.samples))
            order = (steps < counts[:, None]).flatten().nonzero()[:, 0]
            self._order = order.to(input_values.device)

    def windows(self, waveform: Tensor) -> Tensor:
        """[B, T] to [B, S, K], or the windows that hold no padding [1, sum of S_b, K]."""
        found = waveform.unfold(-1, self.kernel_size, self.kernel_size // 2)
        return found if self._order is None else found.flatten(0, 1)[self._order][None]

    def waveform(self, windows: Tensor) -> Tensor:
        """What `windows` returned, filtered, to [B, T], 0 behind the last window."""
        if self._order is not None:
            rows = self.batch * self._windows_in(self.samples)
            spread = windows.new_zeros(rows, self.kernel_size)
            windows = spread.index_copy(0, self._order, windows[0])
            windows = windows.view(self.batch, -1, self.kernel_size)
        whole = overlap_add(windows)
        return F.pad(whole, (0, self.samples - whole.shape[1]))

    def _windows_in(self, samples):
        return (samples - self.kernel_size) // (self.kernel_size // 2) + 1


def overlap_add(windows: Tensor) -> Tensor:
    """[B, S, K] windows K / 2 apart to their sum [B, (S + 1) K / 2]."""
    first, second = windows.chunk(2, -1)
    return (F.pad(first, (0, 0, 0, 1)) + F.pad(second, (0, 0, 1, 0))).flatten(1)


def read_lengths(
    attention_mask: Tensor | None, lengths: Tensor | None, input_values: Tensor, least: int
) -> Tensor | None:
    """The samples [B] of every row as int64 on the CPU, or None where nothing is padded.

    Args:
        attention_mask: [B, T] or None; lengths: [B] or None; input_values: [B, T].
        least: samples that a row must have.

    Raises:
        ValueError: both are given, another shape, padding that isn't on the right, or lengths
            out of range.
    """
    B, T = input_values.shape
    if attention_mask is not None:
        if lengths is not None:
            raise ValueError("lengths and attention_mask say the same: give one of them")
        if attention_mask.shape != (B, T):
            raise ValueError(
                f"attention_mask must have shape (B, T) = {(B, T)}, "
                f"got {tuple(attention_mask.shape)}"
            )
        real = attention_mask.bool()
        if (real[:, 1:] & ~real[:, :-1]).any():
            raise ValueError("attention_mask must have its zeros on the right, behind the mixtures")
        lengths = real.sum(1)
    if lengths is None:
        return None
    lengths = lengths.detach().cpu()
    if lengths.shape != (B,) or lengths.is_floating_point() or lengths.is_complex():
        raise ValueError(
            f"lengths must be whole numbers of shape (B,) = {(B,)}, got {lengths.dtype} "
            f"{tuple(lengths.shape)}"
        )
    lengths = lengths.long()
    for length in lengths.tolist():
        if not least <= length <= T:
            raise ValueError(
                f"lengths must be from {least}, two frames, to T={T}, got {lengths.tolist()}"
            )
    return None if bool((lengths == T).all()) else lengths
