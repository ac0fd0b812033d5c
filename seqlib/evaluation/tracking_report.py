# SPDX-License-Identifier: Apache-2.0
"""Tables of state-tracking runs: a line per model, with all of its seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from .state_tracking import TrackingScore
from .tables import markdown_table, over_seeds

RANGES = {True: "[-1, 1]", False: "[0, 1]"}


@dataclass(frozen=True)
class TrackedRun:
    """One trained and tested model.

    Attributes:
        task, model: what tables and plots call them.
        negative_eigenvalues: whether the model's transitions can have them.
        trained_length: the longest sequence it was trained on.
        minutes: how long it trained.
        origin: settings, commit, versions: what else it was made from.
    """

    task: str
    model: str
    negative_eigenvalues: bool
    seed: int
    trained_length: int
    steps: int
    minutes: float
    parameters: int
    score: TrackingScore
    origin: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrackedRun":
        return cls(**{**values, "score": TrackingScore(**values["score"])})


def tracking_table(runs: Sequence[TrackedRun]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for runs of one task: a row per model, over its seeds.

    Where every prefix is answered, the columns are sequence accuracies from the trained length
    on, doubling, and at the longest length that all were tested on; else the scaled accuracy.
    Seeds that differ stand as median (lowest to highest).
    """
    columns = {}
    if runs[0].score.sequence_accuracy is None:
        columns["scaled accuracy"] = lambda run: run.score.scaled_accuracy
    else:
        longest = min(run.score.lengths[-1] for run in runs)
        length = min(run.trained_length for run in runs)
        while length < longest:
            columns[f"to {length}"] = lambda run, at=length: run.score.sequence_accuracy_at(at)
            length *= 2
        columns[f"to {longest}"] = lambda run: run.score.sequence_accuracy_at(longest)
    columns["answers right"] = lambda run: run.score.accuracy
    header = ["model", "eigenvalues", *columns, "seeds", "minutes each"]
    rows = []
    for (model, negative), group in by_model(runs).items():
        cells = [over_seeds([value(run) for run in group]) for value in columns.values()]
        seeds = " ".join(str(run.seed) for run in group)
        minutes = f"{sum(run.minutes for run in group) / len(group):.1f}"
        rows.append([model, RANGES[negative], *cells, seeds, minutes])
    return header, rows


def tracking_markdown(runs: Iterable[TrackedRun]) -> str:
    """A heading and a table per task."""
    parts = []
    for group in by_task(runs).values():
        header, rows = tracking_table(group)
        table = markdown_table(header, rows, numbers=range(2, len(header)))
        parts.append(f"{caption(group)}\n\n{table}\n")
    return "\n".join(parts)


def tracking_screen(runs: Iterable[TrackedRun]) -> list[Table]:
    """The same tables for a terminal."""
    tables = []
    for group in by_task(runs).values():
        header, rows = tracking_table(group)
        table = Table(*header, title=caption(group))
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def caption(runs: Sequence[TrackedRun]) -> str:
    """What the table of one task shows."""
    scores = [run.score for run in runs]
    prefixes = scores[0].sequence_accuracy is not None
    shown = "sequences with all answers right" if prefixes else "(accuracy - chance) / (1 - chance)"
    tested = [score.lengths[-1] for score in scores]
    if not prefixes:
        tested += [score.lengths[0] for score in scores]
    return (
        f"{runs[0].task}: {shown}, trained up to length "
        f"{_span([run.trained_length for run in runs])}, tested on "
        f"{_span([score.sequences for score in scores])} sequences of length {_span(tested)}, "
        f"chance {scores[0].chance:.3g} an answer"
    )


def by_task(runs: Iterable[TrackedRun]) -> dict[str, list[TrackedRun]]:
    """Runs by the task they were trained on."""
    found: dict[str, list[TrackedRun]] = {}
    for run in runs:
        found.setdefault(run.task, []).append(run)
    return found


def by_model(runs: Iterable[TrackedRun]) -> dict[tuple[str, bool], list[TrackedRun]]:
    """Runs by model and range of eigenvalues: the seeds of one line."""
    found: dict[tuple[str, bool], list[TrackedRun]] = {}
    for run in runs:
        found.setdefault((run.model, run.negative_eigenvalues), []).append(run)
    return found


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
