# SPDX-License-Identifier: Apache-2.0
"""Bits per byte: every token once, in the context that the protocol promises."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from seqlib.data import byte_tokenizer, joined_bytes
from seqlib.evaluation import bits_per_byte, carries_state
from seqlib.models.lm import SeqLMConfig, SeqLMForCausalLM

DOCUMENTS = ["first text, é</s>", "second one", "x", "the fourth and the last text of all"]


class RecurrentConfig(PreTrainedConfig):
    model_type = "test_recurrent"
    vocab_size: int = 260


class Recurrent(PreTrainedModel):
    """A GRU whose cache is its hidden state."""

    config_class = RecurrentConfig
    _is_stateful = True

    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(260, 16)
        self.cell = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 260)
        self.dropout = nn.Dropout(0.5)
        self.widths: list[tuple[int, int]] = []
        self.post_init()

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        self.widths.append(tuple(input_ids.shape))
        h, state = self.cell(self.embedding(input_ids), past_key_values)
        return CausalLMOutputWithPast(
            logits=self.head(self.dropout(h)), past_key_values=state if use_cache else None
        )


@pytest.fixture
def recurrent():
    torch.manual_seed(0)
    return Recurrent(RecurrentConfig()).eval()


@pytest.fixture
def attention():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=260, n_positions=24, n_embd=16, n_layer=1, n_head=2, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def stream():
    """What is predicted: every byte + 4, with 3 for the end of a document."""
    ids = [3]
    for document in DOCUMENTS:
        ids += [b + 4 for b in document.encode()] + [3]
    return torch.tensor(ids)


def nats(model, context, target):
    logits = model(input_ids=context[None]).logits[0, -1]
    return float(-logits.log_softmax(-1)[target].double())


@torch.no_grad()
def test_carried_state_equals_reading_the_whole_text(recurrent):
    ids = stream()
    expected = sum(nats(recurrent, ids[:i], ids[i]) for i in range(1, len(ids)))
    for window in (1, 7, 512):
        score = bits_per_byte(recurrent, byte_tokenizer(), DOCUMENTS, window=window, streams=1)
        assert score.nats == pytest.approx(expected, rel=1e-6)
        assert score.num_tokens == len(ids) - 1
        assert score.num_bytes == len(joined_bytes(DOCUMENTS)) == len(ids) - 1
        assert score.bits_per_byte == pytest.approx(expected / math.log(2) / (len(ids) - 1))
    assert "state carried over 1 streams" in score.protocol


@torch.no_grad()
@pytest.mark.parametrize("streams", [2, 5, 1000])
def test_streams_start_empty_after_the_token_before(recurrent, streams):
    ids = stream()
    n = len(ids) - 1
    length = math.ceil(n / min(streams, n))
    expected = sum(nats(recurrent, ids[i // length * length : i + 1], ids[i + 1]) for i in range(n))
    score = bits_per_byte(recurrent, byte_tokenizer(), DOCUMENTS, window=6, streams=streams)
    assert score.nats == pytest.approx(expected, rel=1e-6)
    assert all(width <= 6 for _, width in recurrent.widths[n:])


@torch.no_grad()
@pytest.mark.parametrize(("window", "stride"), [(24, 12), (24, 24), (10, 3), (1, 1), (24, None)])
def test_sliding_window_promises_its_context(attention, window, stride):
    ids = stream()
    n, step = len(ids) - 1, stride or window // 2
    expected = 0.0
    for i in range(n):  # the first window that holds i
        start = max(0, math.ceil((i - window + 1) / step)) * step
        expected += nats(attention, ids[start : i + 1], ids[i + 1])
    for streams in (1, 4):
        score = bits_per_byte(
            attention, byte_tokenizer(), DOCUMENTS, window=window, stride=stride, streams=streams
        )
        assert score.nats == pytest.approx(expected, rel=1e-6)
    assert score.protocol == f"sliding window of {window} tokens, stride {step}"


def test_the_window_fits_the_model_by_default(attention, recurrent):
    score = bits_per_byte(attention, byte_tokenizer(), DOCUMENTS)
    assert score.protocol == "sliding window of 24 tokens, stride 12"
    assert "512 tokens" in bits_per_byte(recurrent, byte_tokenizer(), DOCUMENTS).protocol


def test_text_that_a_tokenizer_hides_is_said(recurrent):
    vocab = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "the": 4, "one": 5}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    score = bits_per_byte(recurrent, tokenizer, ["the one and only", "the"])
    assert score.protocol.endswith(", 2 unknown tokens, whose text was not predicted")
    assert "unknown" not in bits_per_byte(recurrent, tokenizer, ["the one", "the"]).protocol
    tokenizer.unk_token = "</s>"  # as with GPT-2, whose unknown token never occurs
    assert "unknown" not in bits_per_byte(recurrent, tokenizer, ["the one", "the"]).protocol


def test_a_stride_makes_a_recurrent_model_slide(recurrent):
    score = bits_per_byte(recurrent, byte_tokenizer(), DOCUMENTS, window=16, stride=8)
    assert "sliding" in score.protocol


def test_the_mode_of_the_model_is_restored(recurrent):
    recurrent.train()
    first, second = (bits_per_byte(recurrent, byte_tokenizer(), DOCUMENTS) for _ in range(2))
    assert recurrent.training
    assert first == second, "dropout is off while scoring"


def test_which_models_carry_state(recurrent, attention):
    def lm(*block_types):
        config = SeqLMConfig(
            vocab_size=8, hidden_size=64, num_hidden_layers=2, block_types=list(block_types)
        )
        return SeqLMForCausalLM(config)

    assert carries_state(recurrent)
    assert not carries_state(attention)
    assert carries_state(lm("delta_net", "gated_delta_net"))
    assert not carries_state(lm("delta_net", "full_attention"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 25}, "window must be at least 1 and at most the model's 24 positions, got 25"),
        ({"window": 0}, r"window must be .* got 0"),
        ({"window": 8, "stride": 9}, "stride must be between 1 and window=8, got 9"),
        ({"window": 8, "stride": 0}, "stride must be between 1 and window=8, got 0"),
        ({"window": 8, "streams": 0}, "streams must be at least 1, got 0"),
    ],
)
def test_bad_options(attention, options, message):
    with pytest.raises(ValueError, match=message):
        bits_per_byte(attention, byte_tokenizer(), DOCUMENTS, **options)


def test_bad_texts_and_tokenizers(attention):
    with pytest.raises(ValueError, match="documents must hold at least one text, got none"):
        bits_per_byte(attention, byte_tokenizer(), [], window=8)
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="tokenizer must have an eos_token"):
        bits_per_byte(attention, tokenizer, DOCUMENTS, window=8)
