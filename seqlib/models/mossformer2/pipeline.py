# SPDX-License-Identifier: Apache-2.0
"""The task "audio-separation" of transformers' pipelines, which know it once this is imported.

import seqlib.models.mossformer2.pipeline
from transformers import pipeline

separation = pipeline("audio-separation", model="path/of/a/model")
sources = separation("mixture.wav")["sources"]
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Pipeline, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY

from ...audio import audio_info, read_audio
from .separate import load_network, separate_samples

TASK = "audio-separation"


class AudioSeparationPipeline(Pipeline):
    """Recordings to their sources.

    Takes a file, samples [T], or a dictionary with `array` (or `raw`) and `sampling_rate`, or a
    list of those. Every answer is a dictionary with `sources`, float32 [C, T] of the exact
    length, and `sampling_rate`. `chunk_seconds` and `overlap_seconds` are those of `separate`.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write model and feature extractor, without code: this package is what loads them."""
        self.model.save_pretrained(save_directory, **kwargs)
        extractor: Any = self.feature_extractor
        extractor.save_pretrained(save_directory)

    def _sanitize_parameters(
        self,
        sampling_rate: int | None = None,
        chunk_seconds: float | None = None,
        overlap_seconds: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        windows = {"chunk_seconds": chunk_seconds, "overlap_seconds": overlap_seconds}
        rate = {} if sampling_rate is None else {"sampling_rate": sampling_rate}
        return rate, {k: v for k, v in windows.items() if v is not None}, {}

    def preprocess(self, inputs: Any, sampling_rate: int | None = None) -> dict[str, torch.Tensor]:
        """One recording, checked: input_values [1, T] and its mask."""
        extractor: Any = self.feature_extractor
        if isinstance(inputs, str | Path):
            inputs, sampling_rate = read_audio(inputs), audio_info(inputs).sampling_rate
        elif isinstance(inputs, dict):
            unknown = inputs.keys() - {"array", "raw", "sampling_rate", "path"}
            if unknown or ("array" in inputs) == ("raw" in inputs):
                raise ValueError(
                    "a recording must have the keys array (or raw) and sampling_rate, got "
                    f"{sorted(inputs)}"
                )
            sampling_rate = inputs.get("sampling_rate", sampling_rate)
            inputs = inputs["array"] if "array" in inputs else inputs["raw"]
        return extractor(np.asarray(inputs), sampling_rate=sampling_rate, return_tensors="pt")

    def _forward(self, input_tensors: dict[str, torch.Tensor], **windows: float) -> dict[str, Any]:
        """Rows of a batch one by one, each as long as it is: windows are clips of one row."""
        values, mask = input_tensors["input_values"], input_tensors["attention_mask"]
        sources = [
            separate_samples(self.model, row[:length], **windows)
            for row, length in zip(values, mask.sum(1).tolist(), strict=True)
        ]
        return {
            "sources": torch.nn.utils.rnn.pad_sequence([s.T for s in sources], True),
            "length": mask.sum(1),
        }

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Samples as an array, without what the batch was padded with."""
        sources = outputs["sources"][0, : int(outputs["length"][0])]
        return {
            "sources": np.ascontiguousarray(sources.T.numpy()),
            "sampling_rate": self.model.config.sample_rate,
        }


class _Networks:
    """What the registry loads models with."""

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> PreTrainedModel:
        return load_network(name, **kwargs)


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=AudioSeparationPipeline, pt_model=_Networks, type="audio"
)
