# SPDX-License-Identifier: Apache-2.0
"""Classification of sequences and of tokens."""

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import SequenceClassifierOutputWithPast, TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration import SeqLMConfig
from .modeling import SeqLMModel, SeqLMPreTrainedModel
from .pooling import PairScore, pool, stack_pairs


class SeqLMForSequenceClassification(SeqLMPreTrainedModel):
    """A label per row, read as `config.pooling` says; or per pair of rows, with `config.pairs`."""

    def __init__(self, config: SeqLMConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SeqLMModel(config)
        D, labels = config.hidden_size, config.num_labels or 2
        self.score = PairScore(D, labels) if config.pairs else nn.Linear(D, labels, bias=False)
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
        input_values: Tensor | None = None,
        pair_input_ids: Tensor | None = None,
        pair_input_values: Tensor | None = None,
        pair_attention_mask: Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        """Logits [B, num_labels].

        Args:
            attention_mask: without one, tokens equal to `config.pad_token_id` count as padding,
                if it is set.
            labels: [B] class numbers, or [B] / [B, num_labels] floats (`config.problem_type`).
            pair_input_ids, pair_input_values, pair_attention_mask: the second row of each pair,
                of any length. Both go through the model as one batch, and `hidden_states` are
                those of 2B rows, first rows first.

        The other arguments as in `SeqLMModel.forward`.

        Raises:
            ValueError: `cu_seqlens`; a cache where states alone do not make a label; second rows
                without `config.pairs`, or none with it; and what `SeqLMModel.forward` refuses.
        """
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens is not supported here: there is one label per row")
        if past_key_values is not None and (self.config.pairs or self.config.pooling != "last"):
            raise ValueError(
                "past_key_values must be None unless a label is read from one last token, got a "
                f"cache with pooling={self.config.pooling!r} and pairs={self.config.pairs}"
            )
        mask = self._mask(input_ids, attention_mask)
        name = self.main_input_name
        rows = {"input_ids": input_ids, "input_values": input_values}
        pair_rows = {"input_ids": pair_input_ids, "input_values": pair_input_values}
        if self.config.pairs:
            first, second = rows[name], pair_rows[name]
            if first is None or second is None:
                raise ValueError(f"{name} and pair_{name} must both be given with pairs=True")
            pair_mask = self._mask(pair_input_ids, pair_attention_mask)
            rows[name], mask = stack_pairs(first, second, mask, pair_mask)
            use_cache = False
        elif any(x is not None for x in (*pair_rows.values(), pair_attention_mask)):
            raise ValueError(f"pair_{name} must be None with pairs=False in the configuration")
        outputs = self.model(
            **rows,
            attention_mask=mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        pooled = pool(outputs.last_hidden_state, mask, self.config.pooling)
        logits = self.score(*pooled.chunk(2)) if self.config.pairs else self.score(pooled)
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

    def _mask(self, ids: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """`mask`, or what padding among the tokens says."""
        pad = self.config.pad_token_id
        return ids != pad if mask is None and ids is not None and pad is not None else mask


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
        input_values: Tensor | None = None,
        **kwargs,
    ) -> TokenClassifierOutput:
        """Logits [B, T, num_labels]; `labels` [B, T] class numbers, -100 where there is none."""
        kwargs["use_cache"] = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            cu_seqlens=cu_seqlens,
            input_values=input_values,
            return_dict=True,
            **kwargs,
        )
        logits = self.score(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
