# SPDX-License-Identifier: Apache-2.0
"""Train a classifier of S4 layers on clean sequences and test it with noise inside.

accelerate launch recipes/robustness/train.py recipes/robustness/configs/digits_published_cpu.yaml
"""

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, set_seed

from seqlib.evaluation.ssm_noise import NoisyRun, as_published, noisy_accuracies
from seqlib.training.arguments import TrainSettings
from seqlib.training.checkpoints import CheckpointError
from seqlib.training.finished import origin, read_finished
from seqlib.training.long_range import (
    ClassifierSettings,
    SequenceSettings,
    build_classifier,
    prepare_sequences,
)
from seqlib.training.record import describe
from seqlib.training.report import write_metrics
from seqlib.training.run import set_up_logging, train_in_folder
from seqlib.training.settings import parse_settings
from seqlib.training.stopwatch import seconds_trained


@dataclass
class FormSettings:
    """Which form of the experiment is trained."""

    published_form: bool = field(
        default=False,
        metadata={
            "help": "Without residual connections and D, so that all goes through the states; "
            "with norm_position post."
        },
    )


@dataclass
class NoiseSettings:
    """How the trained model is tested, and what it is called."""

    model_name: str = field(default="s4", metadata={"help": "In tables and plots."})
    noise_amplitudes: list[float] = field(
        default_factory=lambda: [0.0, 0.03, 0.1, 0.3, 1.0],
        metadata={"help": "Of the noise that is added to what every S4 layer reads."},
    )
    noise_seed: int = field(default=0, metadata={"help": "Of the noise."})

    def test(self) -> dict[str, Any]:
        return {"amplitudes": self.noise_amplitudes, "seed": self.noise_seed}


def main(words: Sequence[str]) -> NoisyRun | None:
    """Train and test, or read a run that is finished; None on all processes but the first."""
    sequences, model, form, training, noise = parse_settings(
        [SequenceSettings, ClassifierSettings, FormSettings, TrainSettings, NoiseSettings], words
    )
    if form.published_form and model.norm_position != "post":
        raise ValueError(
            f"norm_position must be 'post' with published_form, got {model.norm_position!r}"
        )
    data = prepare_sequences(sequences)
    settings = [sequences, model, form]
    record = describe([*settings, training], data.identity())
    metrics = read_finished(training, record, noise.test())
    if metrics is not None:
        return NoisyRun(**{**metrics["run"], "name": noise.model_name})
    set_seed(training.seed)
    fresh = build_classifier(model, data)
    if form.published_form:
        as_published(fresh)
    trainer = train_in_folder(
        fresh,
        data.train,
        training,
        settings,
        data.identity(),
        data_collator=data.train.collate,
    )
    run = None
    if trainer.is_world_process_zero():
        folder = Path(str(training.output_dir))
        network: Any = AutoModelForSequenceClassification.from_pretrained(folder)
        if form.published_form:
            as_published(network)
        test = data.sequences[data.tested]
        accuracy = noisy_accuracies(
            network.to(training.device),
            test,
            noise.noise_amplitudes,
            batch_size=training.eval_batch_size,
            seed=noise.noise_seed,
        )
        run = NoisyRun(
            name=noise.model_name,
            seed=training.seed,
            amplitudes=noise.noise_amplitudes,
            accuracy=accuracy,
            sequences=len(test),
            majority=test.majority(),
            steps=trainer.state.global_step,
            minutes=round(seconds_trained(trainer.state) / 60, 2),
            parameters=network.num_parameters(),
            origin=origin(settings, training, record),
        )
        log = trainer.state.log_history
        write_metrics(folder, {"run": run.to_dict(), "test": noise.test(), "log": log})
    trainer.accelerator.end_training()
    return run


if __name__ == "__main__":
    set_up_logging()
    try:
        main(sys.argv[1:])
    except (ImportError, ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    gc.collect()  # models hold the process group, whose threads must not outlive the interpreter
