# SPDX-License-Identifier: Apache-2.0
"""What noise at one frequency does to diagonal state-space models, and what it does not.

    python recipes/robustness/run.py

Transfer functions, condition numbers and a delay line, none of which needs training.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from seqlib.evaluation.ssm_delay_line import DelayScore, delay_line, delay_table
from seqlib.evaluation.ssm_deviation import (
    Loss,
    Standing,
    Trade,
    loss_of_diagonal,
    loss_table,
    standing,
    standing_table,
    trades,
)
from seqlib.evaluation.ssm_plots import plot_delay_line, plot_trades, plot_transfers
from seqlib.evaluation.ssm_systems import systems
from seqlib.training.record import describe
from seqlib.training.settings import parse_settings


@dataclass
class TheorySettings:
    """What is computed of the systems themselves."""

    sizes: list[int] = field(
        default_factory=lambda: [8, 16, 32, 64, 128],
        metadata={"help": "States of the systems in the tables."},
    )
    size: int = field(default=32, metadata={"help": "States in the plot and in the delay line."})
    trade_sizes: list[int] = field(
        default_factory=lambda: [16, 64],
        metadata={"help": "States of the perturbations whose size is varied."},
    )
    thetas: list[float] = field(
        default_factory=lambda: [0.1, 0.2, 0.3],
        metadata={"help": "Rank-one perturbations in the delay line."},
    )
    amplitudes: list[float] = field(
        default_factory=lambda: [0.0, 0.03, 0.1, 0.3],
        metadata={"help": "Of the noise, 0 among them."},
    )
    delay_seeds: int = field(default=4, metadata={"help": "How often the delay line is drawn."})
    output_dir: str = field(
        default="outputs/robustness", metadata={"help": "Where plots and tables go."}
    )


def main(words: Sequence[str]) -> Path:
    """Compute everything and write it; the folder."""
    (settings,) = parse_settings([TheorySettings], words)
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    losses = [loss_of_diagonal(n) for n in settings.sizes]
    standings = [standing(s) for n in settings.sizes for s in systems(n)[1:]]
    varied = [trade for n in settings.trade_sizes for trade in trades(n)]
    compared = systems(settings.size, settings.thetas)
    scores = [
        score
        for seed in range(settings.delay_seeds)
        for score in delay_line(compared, settings.amplitudes, seed=seed)
    ]
    plot_transfers(settings.size, folder / "transfer.png")
    plot_trades(varied, folder / "condition.png")
    plot_delay_line(scores, folder / "delay_line.png")
    page = "\n\n".join(
        (
            "What the normal part of HiPPO-LegS loses",
            loss_table(losses),
            "Systems beside HiPPO",
            standing_table(standings),
            f"Delay line, n = {settings.size}: NRMSE by amplitude of the noise",
            delay_table(scores),
        )
    )
    (folder / "robustness.md").write_text(page + "\n", encoding="utf-8")
    origin = describe([settings], {})
    lines = (
        json.dumps({**row, "commit": origin["commit"], "versions": origin["versions"]}) + "\n"
        for row in rows([*losses, *standings, *varied, *scores])
    )
    (folder / "robustness.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def rows(results: Sequence[Loss | Standing | Trade | DelayScore]) -> Iterator[dict[str, Any]]:
    """A line per result that says what it is."""
    for result in results:
        yield {"result": type(result).__name__, **dataclasses.asdict(result)}


if __name__ == "__main__":
    try:
        folder = main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    Console().print(f"everything is in {folder}", highlight=False)
