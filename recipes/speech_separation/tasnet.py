# SPDX-License-Identifier: Apache-2.0
"""The baseline: a small convolutional time-domain separation network in plain torch.

After Conv-TasNet (Luo and Mesgarani, arXiv 1809.07454), non-causal, without skip connections.
"""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from seqlib.models.mossformer2.loss import si_snr_pit_loss
from seqlib.training.separation import SeparatorSettings, config_errors
from seqlib.training.settings import as_mapping


@strict
class TasNetConfig(PreTrainedConfig):
    """Sizes; the defaults have 231,641 parameters for two speakers."""

    model_type = "tasnet"

    sample_rate: int = 8000
    num_speakers: int = 2
    filters: int = 96
    filter_size: int = 16
    bottleneck: int = 64
    hidden_size: int = 128
    num_repeats: int = 2
    num_dilations: int = 6

    def validate_architecture(self) -> None:
        if self.filter_size % 2:
            raise ValueError(f"filter_size must be even, got {self.filter_size}")


@dataclass
class TasNetOutput(ModelOutput):
    """The loss where labels were given, and the sources [B, C, T]."""

    loss: Tensor | None = None
    sources: Tensor | None = None


class Block(nn.Module):
    """1x1, PReLU, norm, a depthwise convolution of three dilated taps, PReLU, norm, 1x1."""

    def __init__(self, width: int, hidden: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.expand = nn.Linear(width, hidden)
        self.taps = nn.Parameter(torch.zeros(hidden, 3))
        self.project = nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.GroupNorm(1, hidden) for _ in range(2))
        self.slopes = nn.ModuleList(nn.PReLU() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, width]."""
        h = self._norm(0, self.expand(x))
        frames, d = h.shape[1], self.dilation
        h = F.pad(h, (0, 0, d, d))
        h = sum(h[:, i * d : i * d + frames] * self.taps[:, i] for i in range(3))
        return x + self.project(self._norm(1, h))

    def _norm(self, i: int, h: Any) -> Tensor:
        return self.norms[i](self.slopes[i](h).mT).mT


class TasNet(PreTrainedModel):
    """Filters, masks from a stack of dilated convolutions, and filters back to samples."""

    config_class = TasNetConfig
    config: TasNetConfig
    main_input_name = "input_values"
    input_modalities = "audio"

    def __init__(self, config: TasNetConfig):
        super().__init__(config)
        self.encoder = nn.Parameter(torch.zeros(config.filters, config.filter_size))
        self.decoder = nn.Parameter(torch.zeros(config.filters, config.filter_size))
        self.norm = nn.GroupNorm(1, config.filters)
        self.reduce = nn.Linear(config.filters, config.bottleneck)
        self.blocks = nn.ModuleList(
            Block(config.bottleneck, config.hidden_size, 2**i)
            for _ in range(config.num_repeats)
            for i in range(config.num_dilations)
        )
        self.slope = nn.PReLU()
        self.mask = nn.Linear(config.bottleneck, config.num_speakers * config.filters)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """torch's own initial values: uniform within 1 / sqrt(fan in)."""
        for name, p in module.named_parameters(recurse=False):
            if isinstance(module, nn.PReLU):
                nn.init.constant_(p, 0.25)
            elif isinstance(module, nn.GroupNorm):
                nn.init.constant_(p, float(name == "weight"))
            else:
                fan_in = module.in_features if isinstance(module, nn.Linear) else p.shape[-1]
                nn.init.uniform_(p, -(fan_in**-0.5), fan_in**-0.5)

    def forward(
        self,
        input_values: Tensor,
        lengths: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> TasNetOutput:
        """Separate mixtures of one length.

        Args:
            input_values: [B, T].
            lengths: [B]; must all be T, as the norms know no padding.
            labels: [B, C, T].
        """
        batch, samples = input_values.shape
        if lengths is not None and not bool((lengths == samples).all()):
            raise ValueError("lengths of a batch must be equal: the norms know no padding")
        size, hop = self.config.filter_size, self.config.filter_size // 2
        padded = F.pad(input_values, (hop, hop + -samples % hop))
        code = (padded.unfold(-1, size, hop) @ self.encoder.T).relu()  # [B, frames, filters]
        h = self.reduce(self.norm(code.mT).mT)
        for block in self.blocks:
            h = block(h)
        masks = self.mask(self.slope(h)).sigmoid().unflatten(-1, (-1, self.config.filters))
        pieces = (code[:, :, None] * masks) @ self.decoder  # [B, frames, C, size]
        pieces = pieces.permute(0, 2, 3, 1).flatten(0, 1)
        whole = F.fold(pieces, (1, padded.shape[1]), (1, size), stride=(1, hop))
        sources = whole.reshape(batch, -1, padded.shape[1])[..., hop : hop + samples]
        loss = None if labels is None else si_snr_pit_loss(sources, labels)
        return TasNetOutput(loss=loss, sources=sources)


def build_tasnet(settings: SeparatorSettings, **fields: Any) -> TasNet:
    """A fresh baseline; draws from torch's global generator.

    Raises:
        ValueError: sizes that `TasNetConfig` refuses.
    """
    with config_errors():
        config = TasNetConfig(**as_mapping("changes", settings.changes) | fields)
    return TasNet(config)
