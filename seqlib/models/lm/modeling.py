# SPDX-License-Identifier: Apache-2.0
"""The language model: embedding, blocks of mixer and MLP, norm, and the next-token head."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.batch_norm import BatchNorm
from ...layers.half_precision import warn_if_slow
from ...layers.mlp import SwiGLU
from ...layers.value_embedding import ValueEmbedding
from ..cache import StateLayer, build_cache, check_cache
from ..pretrained import SeqlibPreTrainedModel
from .configuration import SeqLMConfig, build_mixer, build_norm
from .inputs import boundaries, check_inputs, real_tokens, without_first_labels


class SeqBlock(GradientCheckpointingLayer):
    """`x + mixer(norm(x))`, then `x + mlp(norm(x))` unless the MLP has no width.

    Where `config.norm_position` is "post": `norm(x + mixer(x))`, then `norm(x + mlp(x))`.
    """

    def __init__(self, config: SeqLMConfig, layer_idx: int, mixer_name: str):
        super().__init__()
        self.layer_idx = layer_idx
        self.norm_first = config.norm_position == "pre"
        self.mixer_norm = build_norm(config)
        self.mixer = build_mixer(config, mixer_name)
        self.mlp = None
        if config.intermediate_size:
            self.mlp_norm = build_norm(config)
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        past_key_values: Cache | None = None,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] to [B, T, D]; reads and replaces its own state in `past_key_values`."""
        memory = None
        if past_key_values is not None:
            memory = cast(StateLayer, past_key_values.layers[self.layer_idx])
        x = hidden_states
        if self.norm_first:
            x = normed(self.mixer_norm, x, mask)
        mixed, state = self.mixer(
            x,
            state=None if memory is None else memory.state,
            mask=mask,
            cu_seqlens=cu_seqlens,
            return_state=memory is not None,
        )
        if memory is not None and state is not None:
            memory.write(state, hidden_states.shape[1])
        x = hidden_states + mixed
        if self.mlp is None:
            return x if self.norm_first else normed(self.mixer_norm, x, mask)
        if self.norm_first:
            return x + self.mlp(normed(self.mlp_norm, x, mask))
        x = normed(self.mixer_norm, x, mask)
        return normed(self.mlp_norm, x + self.mlp(x), mask)


def normed(norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """norm(x); mask [B, T] is False at tokens that statistics of a batch leave out."""
    return norm(x, mask) if isinstance(norm, BatchNorm) else norm(x)


class SeqLMPreTrainedModel(SeqlibPreTrainedModel):
    """What transformers wants to know of the language models."""

    config_class = SeqLMConfig
    base_model_prefix = "model"
    _no_split_modules = ["SeqBlock"]  # noqa: RUF012 - as the base class declares them
    _can_record_outputs = {"hidden_states": SeqBlock}  # noqa: RUF012
    _is_stateful = True
    _supports_sdpa = True

    @property
    def main_input_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The argument of `forward` that holds the sequences."""
        return "input_ids" if self.config.input_features is None else "input_values"


class SeqLMModel(SeqLMPreTrainedModel):
    """Token ids, or with `config.input_features` real numbers, to hidden states."""

    def __init__(self, config: SeqLMConfig):
        super().__init__(config)
        D = config.hidden_size
        if config.input_features is None:
            self.embed_tokens = nn.Embedding(config.vocab_size, D, config.pad_token_id)
        else:
            self.embed_values = ValueEmbedding(config.input_features, D)
        self.layers = nn.ModuleList(
            SeqBlock(config, i, name) for i, name in enumerate(config.block_types or ())
        )
        self.norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        input_values: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Run the blocks.

        Args:
            input_ids: [B, T]; or `input_values` [B, T, F] where the configuration has
                `input_features`; or `inputs_embeds` [B, T, D] in place of either.
            attention_mask: [B, T] or [B, seen + T], 0 at padding, which may stand anywhere: it
                changes neither other outputs nor the states.
            position_ids: read only to find where packed sequences start (values 0), when B = 1
                and there is neither a mask nor a cache; positions themselves are counted. Not
                under torch.compile, which can't read values: give it `cu_seqlens`.
            past_key_values: a cache from an earlier call, continued and changed in place.
            use_cache: return a cache; not for packed sequences.
            cu_seqlens: [N+1] boundaries of sequences packed into B = 1; a mask beside it is
                ignored.
            cu_seq_lens_q: the same, as transformers' flattening collator calls it.

        Raises:
            ValueError, TypeError: arguments that do not fit together; the message names them.
        """
        check_inputs(self.main_input_name, input_ids, input_values, inputs_embeds)
        if inputs_embeds is not None:
            hidden_states = inputs_embeds
        elif input_ids is not None:
            hidden_states = self.embed_tokens(input_ids)
        else:
            hidden_states = self.embed_values(input_values)
        if past_key_values is not None:
            check_cache(past_key_values, len(self.layers), hidden_states.shape[0])
        if cu_seqlens is None:
            cu_seqlens = cu_seq_lens_q
        if cu_seqlens is None and position_ids is not None:
            cu_seqlens = boundaries(position_ids, attention_mask, past_key_values)
        if cu_seqlens is not None:
            if past_key_values is not None:
                raise ValueError(
                    "cu_seqlens does not go with past_key_values: packed sequences "
                    "start from nothing and are not continued"
                )
            use_cache, mask = False, None
        else:
            mask = real_tokens(attention_mask, hidden_states)
        if use_cache and past_key_values is None:
            past_key_values = build_cache(len(self.layers))
        if not torch.compiler.is_compiling():
            warn_if_slow(next(self.layers[0].parameters()))

        for layer in self.layers:
            hidden_states = layer(
                hidden_states, past_key_values=past_key_values, mask=mask, cu_seqlens=cu_seqlens
            )
        return BaseModelOutputWithPast(
            last_hidden_state=normed(self.norm, hidden_states, mask),
            past_key_values=past_key_values if use_cache else None,
        )


class SeqLMForCausalLM(SeqLMPreTrainedModel, GenerationMixin):
    """Next-token prediction and generation."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SeqLMConfig):
        super().__init__(config)
        _check_causal(config)
        self.model = SeqLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cu_seqlens: Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, vocab_size], and the loss if there are labels.

        Args:
            labels: [B, T] token ids, -100 where nothing is predicted; shifted inside. The first
                token of a packed sequence is never predicted from the one before it.
            logits_to_keep: the last so many positions (0: all), or their indices.
            kwargs: `position_ids`; and for the loss `num_items_in_batch`, `shift_labels`.

        The other arguments as in `SeqLMModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cu_seqlens=cu_seqlens,
            return_dict=True,  # whatever the configuration says about the outermost call
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if isinstance(logits_to_keep, int):
            hidden_states = hidden_states[:, -logits_to_keep:]
        else:
            hidden_states = hidden_states[:, logits_to_keep]
        logits = self.lm_head(hidden_states)
        loss = None
        if labels is not None:
            if cu_seqlens is not None:
                labels = without_first_labels(labels, cu_seqlens)
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        if model_kwargs.get("past_key_values") is not None:
            return super()._prepare_cache_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
                generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
            )
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                "cache_implementation must be None or 'dynamic': states have their own size, got "
                f"{generation_config.cache_implementation!r}"
            )
        if generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = build_cache(len(self.model.layers))
        return None


def _check_causal(config: SeqLMConfig) -> None:
    """Refuse configurations that predict no next token."""
    if config.input_features is not None:
        raise ValueError(
            f"input_features must be None to predict tokens, got {config.input_features}"
        )
    if config.bidirectional:
        raise ValueError(
            "mixers must not be bidirectional to predict tokens: they would read the answer, got "
            f"mixer_kwargs={config.mixer_kwargs}"
        )
