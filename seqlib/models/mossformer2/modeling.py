# SPDX-License-Identifier: Apache-2.0
"""The network of MossFormer2 on frames, and the separation of waveforms with it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import ModelOutput, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ...layers.fsmn import GatedFsmnBlock, JointAttentionBlock, SequenceNorm
from ...layers.fsmn.attention import frequencies
from ...layers.fsmn.projection import uniform
from ...layers.fsmn.state import inner, outer
from ...layers.half_precision import warn_if_slow
from ...layers.norm import LayerNorm
from ...layers.packed import sequence_and_position
from ..pretrained import SeqlibPreTrainedModel
from .configuration import MossFormer2Config
from .frames import Frames
from .loss import si_snr_pit_loss

# State of a layer or of the whole network: tensors by name, batch first.
State = dict[str, Tensor]


@dataclass
class MossFormer2Output(ModelOutput):
    """What `MossFormer2Model` returns.

    Attributes:
        last_hidden_state: [B, S, D].
        hidden_states: [B, S, D] in front of every layer, and the last one, if asked for.
        state: of a causal network, if asked for.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    state: State | None = None


@dataclass
class SeparationOutput(ModelOutput):
    """What `MossFormer2ForSpeechSeparation` returns.

    Attributes:
        loss: scalar, where labels were given.
        sources: [B, C, T].
        hidden_states: as in `MossFormer2Output`.
    """

    loss: Tensor | None = None
    sources: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class MossFormer2Layer(GradientCheckpointingLayer):
    """A joint attention block, then a gated memory block."""

    def __init__(self, config: MossFormer2Config):
        super().__init__()
        options = {
            "kernel_size": config.conv_kernel_size,
            "dropout": config.dropout,
            "causal": config.causal,
        }
        self.attention = JointAttentionBlock(
            config.hidden_size,
            group_size=config.group_size,
            query_key_dim=config.query_key_dim,
            expansion=config.hidden_expansion,
            rotary_dim=config.rotary_dim,
            normalize=config.attention_normalize,
            **options,
        )
        self.memory = GatedFsmnBlock(
            config.hidden_size,
            config.inner_size,
            memory=config.memory,
            order=config.fsmn_order,
            depth=config.fsmn_depth,
            **options,
        )

    def forward(
        self,
        hidden_states: Tensor,
        *,
        cu_seqlens: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """[B, S, D] to [B, S, D], and the state after the last frame or None."""
        options = {"cu_seqlens": cu_seqlens, "return_state": return_state}
        x, after = self.attention(hidden_states, state=inner("attention", state), **options)
        x, last = self.memory(x, state=inner("memory", state), **options)
        if not return_state:
            return x, None
        return x, outer("attention", after) | outer("memory", last)


class PositionCode(nn.Module):
    """`x[t] + scale * [sin(t w), cos(t w)]`, w_j = 10000^(-2j/D), with one learned scale."""

    def __init__(self, initial_scale: float) -> None:
        super().__init__()
        self.initial_scale = initial_scale
        self.scale = nn.Parameter(torch.full((1,), initial_scale))

    def initial_values(self) -> dict[str, Tensor]:
        """The scale that it was made with."""
        return {"scale": torch.full((1,), self.initial_scale)}

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Args: x: [B, S, D]; position: [S] or [B, S] integers. Returns [B, S, D]."""
        # float32 angles would be wrong by a hundredth after some 10^5 frames
        rates = frequencies(x.shape[-1], x.device).double()
        angles = position[..., None].double() * rates
        # under autocast x is narrow, but the sum that layers add to is as wide as the scale
        dtype = torch.promote_types(x.dtype, self.scale.dtype)
        code = torch.cat((angles.sin().to(dtype), angles.cos().to(dtype)), -1)
        return torch.addcmul(x.to(dtype), code, self.scale.to(dtype))


class MossFormer2PreTrainedModel(SeqlibPreTrainedModel):
    """What transformers wants to know of these networks, and how their linear maps start."""

    config_class = MossFormer2Config
    config: MossFormer2Config
    base_model_prefix = "model"
    main_input_name = "input_values"
    input_modalities = "audio"
    accepts_loss_kwargs = False  # a loss is a mean over mixtures, whoever accumulates divides it
    _no_split_modules = ["MossFormer2Layer"]  # noqa: RUF012 - as the base class declares them
    _can_record_outputs = {"hidden_states": MossFormer2Layer}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):  # torch's own values, as published networks had them
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    init.copy_(parameter, uniform(parameter.shape, module.in_features))
        elif isinstance(module, JointAttentionBlock | GatedFsmnBlock):  # after the maps in it
            last = module.expand if isinstance(module, GatedFsmnBlock) else module.to_out.linear
            for parameter in last.parameters():
                init.copy_(parameter, self.config.initial_scale * parameter)


class MossFormer2Model(MossFormer2PreTrainedModel):
    """Frames of channels or features to hidden states that masks are made of."""

    main_input_name = "input_features"

    def __init__(self, config: MossFormer2Config):
        super().__init__(config)
        D, causal = config.hidden_size, config.causal
        self.input_norm = SequenceNorm(config.num_channels, 1e-8, causal=causal)
        self.input_projection = nn.Linear(config.num_channels, D, bias=False)
        self.position_code = PositionCode(float(config.initial_scale))
        self.layers = nn.ModuleList(
            MossFormer2Layer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = LayerNorm(D, 1e-6)
        self.output_norm = SequenceNorm(D, 1e-8, causal=causal)
        self.slope = nn.Parameter(torch.full((1,), 0.25))
        self.gradient_checkpointing = False
        self.post_init()

    def initial_values(self) -> dict[str, Tensor]:
        """The slope of torch's PReLU."""
        return {"slope": torch.full((1,), 0.25)}

    @capture_outputs
    def forward(
        self,
        input_features: Tensor,
        cu_seqlens: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
        **kwargs,
    ) -> MossFormer2Output:
        """Run the layers.

        Args:
            input_features: [B, S, N], or [B, S, F] where the configuration has them.
            cu_seqlens: [B+1] boundaries of sequences packed into a batch of 1, on any device.
            state: what an earlier call of a causal network returned, to go on from there.
            return_state: also return the state after the last frame.

        Raises:
            ValueError: another shape, or a state of a network that isn't causal.
        """
        channels = self.config.num_channels
        if input_features.dim() != 3 or input_features.shape[-1] != channels:
            raise ValueError(
                f"input_features must have shape (B, S, {channels}), "
                f"got {tuple(input_features.shape)}"
            )
        if not torch.compiler.is_compiling():
            warn_if_slow(self.input_projection.weight)
        x = self.input_norm(input_features, cu_seqlens)
        position, after = self._positions(x, cu_seqlens, state), {}
        x0 = self.position_code(self.input_projection(x), position)
        h = x0
        for i, layer in enumerate(self.layers):
            h, last = layer(
                h,
                cu_seqlens=cu_seqlens,
                state=inner(f"layers.{i}", state),
                return_state=return_state,
            )
            after |= outer(f"layers.{i}", last)
        h = self.output_norm(self.norm(h), cu_seqlens) + x0
        if return_state:
            last_position = position[..., -1:] + 1
            after["position"] = last_position.expand(x.shape[0], 1).clone()
        return MossFormer2Output(
            last_hidden_state=F.prelu(h, self.slope.to(h.dtype)),
            state=after if return_state else None,
        )

    def _positions(self, x: Tensor, cu_seqlens: Tensor | None, state: State | None) -> Tensor:
        """The frames' positions in their sequences, [S] or [B, S]."""
        if cu_seqlens is not None:
            return sequence_and_position(cu_seqlens, x.shape[1], x.device)[1]
        steps = torch.arange(x.shape[1], device=x.device)
        return steps if state is None else state["position"] + steps


class MaskHead(nn.Module):
    """Hidden states to the mask of one source at a time; all but the first map is shared."""

    def __init__(self, config: MossFormer2Config):
        super().__init__()
        D, outputs = config.hidden_size, config.output_features or config.hidden_size
        self.sources = nn.Linear(D, config.num_speakers * D)
        self.value = nn.Linear(D, D)
        self.gate = nn.Linear(D, D)
        self.output = nn.Linear(D, outputs, bias=False)

    def forward(self, hidden_states: Tensor, source: int) -> Tensor:
        """Args: hidden_states: [B, S, D]. Returns the mask [B, S, N], not negative."""
        D = hidden_states.shape[-1]
        rows = slice(source * D, (source + 1) * D)
        x = F.linear(hidden_states, self.sources.weight[rows], self.sources.bias[rows])
        return F.relu(self.output(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))))


class Filterbank(nn.Module):
    """N filters of K samples, for windows of a waveform or back to them."""

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, kernel_size))
        with torch.no_grad():
            self.weight.copy_(self.initial_values()["weight"])

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh filters, uniform as those of torch's convolutions."""
        return {"weight": uniform(self.weight.shape, self.weight.shape[1])}


class MossFormer2ForSpeechSeparation(MossFormer2PreTrainedModel):
    """Mixtures of speakers to a waveform of each."""

    def __init__(self, config: MossFormer2Config):
        super().__init__(config)
        if config.input_features is not None:
            raise ValueError(
                f"input_features must be None to separate waveforms, got {config.input_features}"
            )
        self.encoder = Filterbank(config.hidden_size, config.encoder_kernel_size)
        self.decoder = Filterbank(config.hidden_size, config.encoder_kernel_size)
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
        """Separate every mixture as if it was alone, whatever it is padded to.

        Args:
            input_values: [B, T].
            attention_mask: [B, T], 0 at padding, which stands on the right.
            lengths: [B] samples of each mixture, in place of the mask.
            labels: [B, C, T] the sources, in any order.

        Returns:
            sources [B, C, T], 0 behind the end of a mixture, and the loss if there are labels.

        Raises:
            ValueError: shapes that don't fit, padding elsewhere, lengths out of range, or a
                mixture that is shorter than 3/2 K samples.
        """
        frames = Frames(self.config, input_values, attention_mask, lengths)
        if labels is not None:
            self._check_labels(labels, input_values)
        encoded = self.encode(frames.windows(input_values.to(self.encoder.weight.dtype)))
        outputs = self.model(
            input_features=encoded, cu_seqlens=frames.cu_seqlens, return_dict=True, **kwargs
        )
        sources = torch.stack(
            [
                frames.waveform(self.decode(encoded, outputs.last_hidden_state, source))
                for source in range(self.config.num_speakers)
            ],
            1,
        )
        loss = None
        if labels is not None:
            loss = si_snr_pit_loss(
                sources, labels, frames.lengths, threshold=self.config.loss_threshold
            )
        return SeparationOutput(loss=loss, sources=sources, hidden_states=outputs.hidden_states)

    def encode(self, windows: Tensor) -> Tensor:
        """Windows [B, S, K] to the frames [B, S, N] that masks are for."""
        return F.relu(F.linear(windows, self.encoder.weight))

    def decode(self, encoded: Tensor, hidden_states: Tensor, source: int) -> Tensor:
        """The windows [B, S, K] of one source, which add up where they overlap."""
        mask = self.mask_head(hidden_states, source)
        if self.config.mask_mode == "multiply":
            mask = encoded * mask
        return mask @ self.decoder.weight

    def _check_labels(self, labels: Tensor, input_values: Tensor) -> None:
        B, T = input_values.shape
        if labels.shape != (B, self.config.num_speakers, T):
            raise ValueError(
                f"labels must have shape (B, C, T) = {(B, self.config.num_speakers, T)}, "
                f"got {tuple(labels.shape)}"
            )
