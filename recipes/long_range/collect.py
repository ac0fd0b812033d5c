# SPDX-License-Identifier: Apache-2.0
"""Finished runs as one table and one plot, and as a line of JSON each."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqlib.evaluation.classification_report import (
    ClassifiedRun,
    classification_markdown,
    plot_classification,
)
from seqlib.training.report import METRICS_FILE
from seqlib.training.settings import parse_settings


@dataclass
class CollectSettings:
    """Which runs, and where they are put together."""

    runs: list[str] = field(
        default_factory=list, metadata={"help": "Folders of finished runs, in the table's order."}
    )
    output_dir: str = field(
        default="outputs/long_range/results", metadata={"help": "Where the results go."}
    )


def main(words: Sequence[str]) -> list[ClassifiedRun]:
    """Read the runs and write `runs.md`, `runs.png` and `runs.jsonl`.

    Raises:
        ValueError: no runs, or a folder without a finished one.
    """
    (wanted,) = parse_settings([CollectSettings], words)
    if not wanted.runs:
        raise ValueError("runs must name at least one folder")
    runs = [read(Path(folder)) for folder in wanted.runs]
    folder = Path(wanted.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.md").write_text(classification_markdown(runs), encoding="utf-8")
    lines = (json.dumps(run.to_dict()) + "\n" for run in runs)
    (folder / "runs.jsonl").write_text("".join(lines), encoding="utf-8")
    plot_classification(runs, folder / "runs.png")
    return runs


def read(folder: Path) -> ClassifiedRun:
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"runs: {folder} holds no finished run ({error})") from error
    return ClassifiedRun.from_dict(metrics["run"])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
