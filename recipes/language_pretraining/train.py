# SPDX-License-Identifier: Apache-2.0
"""Pretrain a language model on text, compare it with what text alone gives, and show a sample."""

import dataclasses
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, set_seed

from seqlib.data.sampling import joined_bytes, shuffled_prefix
from seqlib.evaluation import Score, TextScore, baseline_scores, bits_per_byte, plot_losses
from seqlib.models import SeqLMForCausalLM
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.language_model import (
    DataSettings,
    TextData,
    build_model,
    prepare_text,
    transformer_like,
)
from seqlib.training.model import ModelSettings
from seqlib.training.report import continue_text, write_card, write_metrics
from seqlib.training.run import set_up_logging, train_in_folder
from seqlib.training.settings import parse_settings
from seqlib.training.trainer import SeqTrainer


@dataclass
class ReportSettings:
    """What is done with the trained model."""

    transformer_baseline: bool = field(
        default=False,
        metadata={"help": "Train a Transformer of the same size under the same settings as well."},
    )
    text_baselines: bool = field(
        default=True, metadata={"help": "Compare with xz and with byte n-grams."}
    )
    eval_bytes: int | None = field(
        default=None, metadata={"help": "Score so many bytes of held-out text; all by default."}
    )
    prompt: str = field(default="", metadata={"help": "How the sample begins."})
    sample_tokens: int = field(default=160, metadata={"help": "How long the sample is."})


def main(words: Sequence[str]) -> None:
    data, model, training, report = parse_settings(
        [DataSettings, ModelSettings, TrainSettings, ReportSettings], words
    )
    text = prepare_text(data)
    trainer = train(model, data, text, training)
    rival = train_rival(trainer, text, training) if report.transformer_baseline else None
    if trainer.is_world_process_zero():
        summarise(trainer, rival, text, report)
    trainer.accelerator.end_training()


def train(
    model: ModelSettings, data: DataSettings, text: TextData, training: TrainSettings
) -> SeqTrainer:
    set_seed(training.seed)
    network = build_model(model, text.tokenizer, data.sequence_length)
    return train_on_text(network, text, training, [data, model])


def train_rival(trainer: SeqTrainer, text: TextData, training: TrainSettings) -> SeqTrainer:
    """A Transformer of the same size, given the same text, settings and time."""
    set_seed(training.seed)
    rival = SeqLMForCausalLM(transformer_like(trainer.model.config))
    folder = str(Path(str(training.output_dir)) / "transformer")
    args = dataclasses.replace(training, output_dir=folder, resume_from_checkpoint="auto")
    return train_on_text(rival, text, args, [])


def train_on_text(
    model: SeqLMForCausalLM, text: TextData, args: TrainSettings, settings: Sequence[Any]
) -> SeqTrainer:
    return train_in_folder(
        model, text.train, args, settings, text.identity(), processing_class=text.tokenizer
    )


def summarise(
    trainer: SeqTrainer, rival: SeqTrainer | None, text: TextData, report: ReportSettings
) -> None:
    """Score, compare, write the results, and print them with a sample at the very end."""
    folder = Path(str(trainer.args.output_dir))
    held_out = shuffled_prefix(text.corpus["validation"], report.eval_bytes)
    model, scored = evaluate(folder, held_out, trainer.args.device)
    blocks = ", ".join(dict.fromkeys(model.config.block_types))
    own = Score(f"this model ({blocks})", scored.bits_per_byte, effort(trainer))
    scores = [own]
    if rival is not None:
        other, other_scored = evaluate(
            Path(str(rival.args.output_dir)), held_out, trainer.args.device
        )
        scores.append(
            Score(
                f"Transformer, {other.num_parameters() / 1e6:.2f} M parameters",
                other_scored.bits_per_byte,
                f"{effort(rival)}; {other_scored.protocol}",
            )
        )
    seen = min(round(trained_tokens(trainer) * text.bytes_per_token), text.train.tokens.num_bytes)
    if report.text_baselines:
        same = joined_bytes(shuffled_prefix(text.corpus["train"], seen))
        scores += baseline_scores(same, joined_bytes(held_out))
    name = text.corpus.manifest["name"]
    write_metrics(
        folder,
        {
            "bits_per_byte": dataclasses.asdict(scored),
            "comparison": [dataclasses.asdict(score) for score in scores],
            "parameters": model.num_parameters(),
            "trained_tokens": trained_tokens(trainer),
            "distinct_trained_bytes": seen,
            "steps": trainer.state.global_step,
            "data": text.identity(),
            "log": trainer.state.log_history,
        },
    )
    plot_losses(trainer.state.log_history, folder / "loss.png", title=folder.name)
    write_card(
        folder,
        model,
        scores,
        own,
        train_text=f"{seen / 1e6:.1f} MB of {name} (sha256 {text.corpus.sha256[:12]})",
        data_name=name,
        protocol=scored.protocol,
    )
    console = Console()
    # scores on texts of different digests can't be compared
    held = f"held-out {name}, {scored.num_bytes / 1e3:.0f} kB, sha256 {text.corpus.sha256[:12]}"
    console.print(table(scores, held))
    console.print(f"everything is in {folder}", highlight=False)
    sample = continue_text(
        model, AutoTokenizer.from_pretrained(folder), report.prompt, report.sample_tokens
    )
    console.rule("a sample")
    console.print(sample, markup=False, highlight=False)
    console.rule("held-out bits per byte")
    for score in scores:
        console.print(f"{score.bits_per_byte:.3f}  {score.name}", highlight=False)


def evaluate(
    folder: Path, held_out: list[str], device: torch.device
) -> tuple[PreTrainedModel, TextScore]:
    """The model as a user loads it, and its score."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    window = model.config.max_position_embeddings
    return model, bits_per_byte(model, tokenizer, held_out, window=window)


def trained_tokens(trainer: SeqTrainer) -> int:
    return int(trainer.state.num_input_tokens_seen)


def effort(trainer: SeqTrainer) -> str:
    tokens = f"{trained_tokens(trainer) / 1e6:.2f} M tokens"
    return f"{tokens} in {trainer.clock.elapsed / 60:.1f} min" if trainer.clock else tokens


def table(scores: Sequence[Score], title: str) -> Table:
    rows = Table("", "bits per byte", "", title=title)
    for score in sorted(scores, key=lambda score: score.bits_per_byte):
        rows.add_row(score.name, f"{score.bits_per_byte:.3f}", score.note)
    return rows


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    gc.collect()  # models hold the process group, whose threads must not outlive the interpreter
