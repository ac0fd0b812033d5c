# SPDX-License-Identifier: Apache-2.0
"""From recordings to a padded batch."""

from collections.abc import Sequence

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from ...audio import AudioError, check_samples
from .configuration import MossFormer2Config

logger = logging.get_logger(__name__)


class MossFormer2FeatureExtractor(SequenceFeatureExtractor):
    """Checks recordings and pads them on the right.

    Args:
        feature_size: 1, one channel.
        sampling_rate: samples per second that the model was trained on.
        padding_value: of the samples behind the end of a recording; the model reads none.
        minimum_length: samples of the shortest recording that the model takes.
    """

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012  transformers' own form

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 8000,
        padding_value: float = 0.0,
        minimum_length: int = 24,
        **kwargs,
    ):
        if feature_size != 1:
            raise ValueError(f"feature_size must be 1, one channel, got {feature_size}")
        if kwargs.get("padding_side", "right") != "right":
            raise ValueError(f"padding_side must be 'right', got {kwargs['padding_side']!r}")
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.minimum_length = minimum_length

    @classmethod
    def of(cls, config: MossFormer2Config) -> "MossFormer2FeatureExtractor":
        """The one for models of this configuration."""
        return cls(sampling_rate=config.sample_rate, minimum_length=config.min_samples)

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """One recording [T] or several, in a batch.

        Returns:
            input_values float32 [B, T] and attention_mask int32 [B, T], 1 up to each length.

        Raises:
            AudioError: another rate, several channels, too few, NaN, infinite or silent samples.
            TypeError: whole numbers.
        """
        self.check_rate(sampling_rate)
        first = raw_speech[0] if len(raw_speech) else 0.0
        several = isinstance(raw_speech, list | tuple) and np.ndim(first) > 0
        recordings = list(raw_speech) if several else [raw_speech]
        checked = [
            check_samples(
                recording, self.minimum_length, f"raw_speech[{i}]" if several else "raw_speech"
            )
            for i, recording in enumerate(recordings)
        ]
        return self.pad(
            BatchFeature({"input_values": checked}),
            padding=padding,
            max_length=max_length,
            return_attention_mask=True,
            return_tensors=return_tensors,
        )

    def check_rate(self, sampling_rate: int | None) -> None:
        """Raise an `AudioError` if recordings have another rate; say so if it isn't known."""
        if sampling_rate is None:
            logger.warning_once(
                f"sampling_rate was not given: recordings are taken as {self.sampling_rate} "
                "samples per second"
            )
        elif sampling_rate != self.sampling_rate:
            raise AudioError(
                f"sampling_rate must be the model's, {self.sampling_rate}, got {sampling_rate}; "
                "resample the recording first"
            )
