# SPDX-License-Identifier: Apache-2.0
"""Classifiers of s4 and s5 as the papers have them learn what only a memory can tell."""

import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, set_seed

from seqlib.models import SeqLMConfig, SeqLMForSequenceClassification
from seqlib.training.trainer import SeqTrainer

OPTIONS = {
    "s4": {"d_state": 16, "bidirectional": True, "dropout": 0.1, "tie_dropout": True},
    "s5": {"d_state": 16, "blocks": 2, "bidirectional": True, "dropout": 0.1},
}


class Order(Dataset):
    """Noise with a mark in each of two channels, in rows of 12 to 20 steps: which comes first?

    Of pairs: is it the same one in both rows?
    """

    def __init__(self, size, seed, *, pairs=False):
        draw = torch.Generator().manual_seed(seed)
        self.items = []
        for _ in range(size):
            rows, answers = zip(*(self._row(draw) for _ in range(1 + pairs)), strict=True)
            names = ("input_values", "pair_input_values")
            label = int(answers[0] == answers[1]) if pairs else answers[0]
            self.items.append({**dict(zip(names, rows, strict=False)), "labels": label})

    @staticmethod
    def _row(draw):
        T = int(torch.randint(12, 21, (), generator=draw))
        x = 0.1 * torch.randn(T, 2, generator=draw)
        early, late = torch.randperm(T, generator=draw)[:2].sort().values
        answer = int(torch.randint(2, (), generator=draw))
        x[early, answer] += 3
        x[late, 1 - answer] += 3
        return x, answer

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]

    @staticmethod
    def collate(items):
        batch = {"labels": torch.tensor([item["labels"] for item in items])}
        for name in items[0].keys() - {"labels"}:
            rows = [item[name] for item in items]
            batch[name] = torch.nn.utils.rnn.pad_sequence(rows, True, 7.0)
            lengths = torch.tensor([len(row) for row in rows])[:, None]
            mask = (torch.arange(batch[name].shape[1]) < lengths).long()
            batch[name.replace("input_values", "attention_mask")] = mask
        return batch


def accuracy(found):
    logits, labels = found
    assert logits.shape == (len(labels), 2)  # and no states beside them
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


@pytest.mark.parametrize(("mixer", "pairs"), [("s4", False), ("s5", False), ("s5", True)])
def test_a_classifier_learns_and_is_scored_as_it_is_loaded(tiny, tmp_path, mixer, pairs):
    set_seed(0)
    model = SeqLMForSequenceClassification(
        SeqLMConfig(
            input_features=2,
            hidden_size=16,
            intermediate_size=0,
            block_types=[mixer] * 2,
            mixer_kwargs=OPTIONS,
            norm_type="batch",
            norm_position="post",
            pooling="mean",
            pairs=pairs,
            initializer_range=0.2,
        )
    )
    args = tiny.settings(
        tmp_path,
        f"--max_steps={200 if pairs else 60}",
        "--save_strategy=no",
        "--per_device_train_batch_size=32",
        "--per_device_eval_batch_size=48",
        "--learning_rate=1e-2",
        "--weight_decay=0.01",
    )
    held_out = Order(96, 1, pairs=pairs)
    trainer = SeqTrainer(
        model,
        args,
        train_dataset=Order(512, 0, pairs=pairs),
        eval_dataset=held_out,
        data_collator=Order.collate,
        compute_metrics=accuracy,
    )
    trainer.train()
    score = trainer.evaluate()
    assert score["eval_accuracy"] > 0.9  # measured: s4 0.979, s5 1.0, pairs 0.990
    trainer.save_model()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.use_cache is False
    right = 0
    with torch.no_grad():
        for item in held_out:  # row by row, without padding
            batch = Order.collate([item])
            right += int(again(**batch).logits.argmax()) == item["labels"]
    assert right / len(held_out) == pytest.approx(score["eval_accuracy"])
