# SPDX-License-Identifier: Apache-2.0
"""Classification of sequences and of tokens."""

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import SequenceClassifierOutputWithPast, TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration import SeqLMConfig
from .modeling import SeqLMModel, SeqLMPreTrainedModel


class SeqLMForSequenceClassification(SeqLMPreTrainedModel):
    """A label per row, read at its last real token."""

    def __init__(self, config: SeqLMConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SeqLMModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels or 2, bias=False)
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
        cu_seqlens: Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        """Logits [B, num_labels].

        Without a mask, tokens equal to `config.pad_token_id` count as padding, if it is set.
        `labels` [B] class numbers, or [B] / [B, num_labels] floats (`config.problem_type`).

        Raises:
            ValueError: `cu_seqlens`, besides what `SeqLMModel.forward` refuses.
        """
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens is not supported here: there is one label per row")
        if attention_mask is None and input_ids is not None:
            pad = self.config.pad_token_id
            attention_mask = None if pad is None else input_ids != pad
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        B, T, _ = hidden_states.shape
        t = torch.arange(T, device=hidden_states.device)
        last = t.new_full((B,), T - 1)
        if attention_mask is not None:
            last = (attention_mask[:, -T:].bool() * t).argmax(-1)
        logits = self.score(hidden_states[torch.arange(B, device=t.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, **kwargs
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


class SeqLMForTokenClassification(SeqLMPreTrainedModel):
    """A label per token."""

    def __init__(self, config: SeqLMConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SeqLMModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **kwargs,
    ) -> TokenClassifierOutput:
        """Logits [B, T, num_labels]; `labels` [B, T] class numbers, -100 where there is none."""
        kwargs["use_cache"] = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            cu_seqlens=cu_seqlens,
            return_dict=True,
            **kwargs,
        )
        logits = self.score(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
