# SPDX-License-Identifier: Apache-2.0
"""A run of seconds, for the tests and for the scripts that they start."""

from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from seqlib.models import SeqLMConfig, SeqLMForCausalLM
from seqlib.training.arguments import TrainSettings
from seqlib.training.record import describe, open_run, write_record
from seqlib.training.settings import parse_settings
from seqlib.training.trainer import SeqTrainer

VOCAB, LENGTH = 32, 16


class Tokens(Dataset):
    """Short noisy counting sequences, the same on every call; an epoch is five steps."""

    def __init__(self, size: int = 20):
        draw = torch.Generator().manual_seed(0)
        starts = torch.randint(VOCAB, (size, 1), generator=draw)
        noise = torch.randint(2, (size, LENGTH), generator=draw)
        self.rows = (starts + torch.arange(LENGTH) + noise) % VOCAB

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def model(hidden_size: int = 16) -> LlamaForCausalLM:
    """With dropout: a resume must restore its draws."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=hidden_size,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            attention_dropout=0.2,
        )
    )


def recurrent_model(dropout: float = 0.0) -> SeqLMForCausalLM:
    """This project's: a recurrence, attention, and a layer with learning rates of its own."""
    torch.manual_seed(0)
    return SeqLMForCausalLM(
        SeqLMConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=32,
            block_types=["gated_delta_net", "full_attention", "s5"],
            mixer_kwargs={
                "gated_delta_net": {"num_heads": 2, "head_dim": 8},
                "full_attention": {"num_heads": 2},
                "s5": {"d_state": 4, "init": "legs", "dropout": dropout},
            },
        )
    )


def settings(output_dir: Path, *words: str) -> TrainSettings:
    (found,) = parse_settings(
        [TrainSettings],
        [
            f"--output_dir={output_dir}",
            "--max_steps=12",
            "--save_steps=3",
            "--logging_steps=1",
            "--per_device_train_batch_size=4",
            "--learning_rate=3e-2",
            "--report_to=none",
            "--disable_tqdm=true",
            "--use_cpu=true",
            *words,
        ],
    )
    return found


def train(
    output_dir: Path, *words: str, network: PreTrainedModel | None = None, **kwargs
) -> SeqTrainer:
    args = settings(output_dir, *words)
    record = describe([args], {"sha256": "tiny"})
    checkpoint = open_run(output_dir, record, args.resume_from_checkpoint)
    trainer = SeqTrainer(network or model(), args, train_dataset=Tokens(), **kwargs)
    if trainer.is_world_process_zero():
        write_record(output_dir, record)
    trainer.train(checkpoint)
    return trainer


def losses(trainer: SeqTrainer) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}
