# SPDX-License-Identifier: Apache-2.0
"""Enhancement of speech by a mask on its short-time spectrum."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import can_return_tuple

from .configuration import MossFormer2Config
from .frames import read_lengths
from .modeling import MaskHead, MossFormer2Model, MossFormer2PreTrainedModel, SeparationOutput
from .spectrum import features, from_spectrum, num_frames, to_spectrum

_FULL_SCALE = 32768.0
_EPS = 1e-6


class MossFormer2ForSpeechEnhancement(MossFormer2PreTrainedModel):
    """Noisy speech to the speech in it.

    Log mel energies of `input_features` / 3 bins and their slopes go in, and a mask for
    `output_features` frequencies comes out: of a network with several sources, the first one's.
    """

    def __init__(self, config: MossFormer2Config):
        super().__init__(config)
        if config.input_features is None or config.output_features is None:
            raise ValueError("input_features and output_features must be given to enhance speech")
        if config.input_features % 3:
            raise ValueError(
                "input_features must be a multiple of 3, bins and their two slopes, "
                f"got {config.input_features}"
            )
        if config.output_features < 4:
            raise ValueError(
                f"output_features must be at least 4 frequencies, got {config.output_features}"
            )
        self.model = MossFormer2Model(config)
        self.mask_head = MaskHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> SeparationOutput:
        """Enhance every recording as if it was alone, whatever it is padded to.

        Zeros fill its last window, so that its last samples are enhanced like the others.

        Args:
            input_values: [B, T] in [-1, 1], whose level matters.
            attention_mask: [B, T], 0 at padding, which stands on the right.
            lengths: [B] samples of each recording, in place of the mask.
            labels: [B, 1, T] the speech without noise.

        Returns:
            sources [B, 1, T], 0 behind the end of a recording, and the loss if there are labels.

        Raises:
            ValueError: shapes that don't fit, padding elsewhere, lengths out of range, or a
                recording shorter than a window.
        """
        F_, bins = self.config.output_features or 0, (self.config.input_features or 0) // 3
        B, T, window = *_batch(input_values), self.config.min_samples
        if window > T:
            raise ValueError(
                f"input_values must have at least {window} samples, one window, got {T}"
            )
        if labels is not None and labels.shape != (B, 1, T):
            raise ValueError(
                f"labels must have shape (B, 1, T) = {(B, 1, T)}, got {tuple(labels.shape)}"
            )
        given = read_lengths(attention_mask, lengths, input_values, window)
        ends = torch.full((B,), T) if given is None else given
        frames = num_frames(ends, F_).to(input_values.device)
        valid = torch.arange(int(frames.max()), device=frames.device) < frames[:, None]  # [B, S]
        real = torch.arange(T, device=frames.device) < ends.to(frames.device)[:, None]

        x = _whole_windows(input_values, real, valid.shape[1], window)
        noisy = to_spectrum(x, F_)
        inputs = features(x, frames, bins, F_, self.config.sample_rate)
        packed = inputs[valid][None].to(self.dtype) if given is not None else inputs.to(self.dtype)
        boundaries = None if given is None else F.pad(frames.cpu().cumsum(0), (1, 0))
        outputs = self.model(
            input_features=packed, cu_seqlens=boundaries, return_dict=True, **kwargs
        )
        found = self.mask_head(outputs.last_hidden_state, 0).to(x.dtype)
        mask = found
        if given is not None:
            mask = found.new_zeros(*valid.shape, F_).masked_scatter(valid[..., None], found)
        enhanced = from_spectrum(noisy * mask, x.shape[1], frames)[:, :T] * real

        loss = None
        if labels is not None:
            clean = to_spectrum(_whole_windows(labels[:, 0], real, valid.shape[1], window), F_)
            loss = mask_loss(mask[valid], clean[valid] * _FULL_SCALE, noisy[valid] * _FULL_SCALE)
        return SeparationOutput(
            loss=loss, sources=enhanced[:, None], hidden_states=outputs.hidden_states
        )


def mask_loss(mask: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
    """Squared error of a mask against the phase-sensitive one, loud frequencies counting more.

    Args:
        mask: [N, F]; clean, noisy: complex [N, F] spectra of whole numbers of 16 bits.
    """
    power, magnitude = noisy.abs().square(), noisy.abs()
    ratio = clean.abs().square() / (power + _EPS)
    target = (ratio * torch.cos(clean.angle() - noisy.angle())).clamp(0, 1)
    weight = magnitude / (magnitude.amax(-1, keepdim=True) + _EPS)
    return 0.5 * ((mask - target).square() * weight).sum() / len(mask)


def _batch(input_values: Tensor) -> tuple[int, int]:
    if input_values.dim() != 2:
        raise ValueError(
            f"input_values must have shape (B, T), one channel, got {tuple(input_values.shape)}"
        )
    return input_values.shape[0], input_values.shape[1]


def _whole_windows(samples: Tensor, real: Tensor, frames: int, window: int) -> Tensor:
    """Samples in float32 at least, zeros behind their ends and up to that of the last window."""
    wide = torch.promote_types(samples.dtype, torch.float32)
    missing = (frames - 1) * (window // 5) + window - samples.shape[1]
    return F.pad(samples.to(wide).where(real, 0), (0, missing))
