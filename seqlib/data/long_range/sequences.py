# SPDX-License-Identifier: Apache-2.0
"""Labelled sequences of tokens or of numbers, and batches of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

PAD_TOKEN = 0
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the sequences of a data set are made of, and what is asked about them.

    Attributes:
        num_classes: number of answers.
        length: no sequence is longer.
        vocab_size: number of token ids, 0 of them padding; None where a step is numbers.
        features: F, how many numbers a step is; None where it is a token.
        scale, shift: a stored number x is read as scale * x + shift.
        pairs: a label is about two sequences, rows 2 i and 2 i + 1 of what is stored.
    """

    num_classes: int
    length: int
    vocab_size: int | None = None
    features: int | None = None
    scale: float = 1.0
    shift: float = 0.0
    pairs: bool = False


class Sequences(Dataset[dict[str, Any]]):
    """The sequences of one split, in memory.

    Items are {"input_ids": int64 [T]} or {"input_values": float32 [T, F]} with {"labels": int}. Of
    pairs, the first sequence is followed by the second one as "pair_input_ids" [T'] (or
    "pair_input_values").

    Args:
        form: what they are made of.
        steps: all sequences one behind the other: integers [S] (tokens) or numbers [S, F].
        starts: int64, where each sequence starts, and S at the end.
        labels: [N] class numbers.

    Raises:
        ValueError: arrays that do not belong together, sequences without a step or longer than
            `form.length`, or a label or token out of range.
    """

    def __init__(self, form: Form, steps: np.ndarray, starts: np.ndarray, labels: np.ndarray):
        self.form, self.steps, self.starts, self.labels = form, steps, starts, labels
        self._check()

    @classmethod
    def of_one_length(cls, form: Form, rows: np.ndarray, labels: np.ndarray) -> "Sequences":
        """From numbers [N, T, F] or tokens [N, T]."""
        N, T, *features = rows.shape
        return cls(form, rows.reshape(N * T, *features), np.arange(N + 1) * T, labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        i = range(len(self))[index]
        name = "input_ids" if self.form.features is None else "input_values"
        if not self.form.pairs:
            return {name: self._row(i), "labels": int(self.labels[i])}
        first, second = self._row(2 * i), self._row(2 * i + 1)
        return {name: first, f"pair_{name}": second, "labels": int(self.labels[i])}

    def collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch: rows [B, T] or [B, T, F] filled up behind their last step, labels [B].

        "attention_mask" [B, T] (and "pair_attention_mask") is 1 at real steps; it is left out
        where all rows have one length.
        """
        batch = {"labels": torch.tensor([item["labels"] for item in items])}
        for name in items[0].keys() - {"labels"}:
            rows = [item[name] for item in items]
            batch[name] = pad_sequence(rows, True, PAD_TOKEN)
            lengths = torch.tensor([len(row) for row in rows])
            if len(lengths.unique()) > 1:
                prefix = "pair_" if name.startswith("pair_") else ""
                real = torch.arange(int(lengths.max())) < lengths[:, None]
                batch[f"{prefix}attention_mask"] = real.long()
        return batch

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All rows [N, T] or [N, T, F] and labels [N], where all rows have one length."""
        items = [self[i] for i in range(len(self))]
        name = "input_ids" if self.form.features is None else "input_values"
        return torch.stack([item[name] for item in items]), torch.from_numpy(self.labels).long()

    def majority(self) -> float:
        """The accuracy of always giving the commonest answer."""
        return float(np.bincount(self.labels).max() / len(self))

    def digest(self) -> str:
        """sha256 of the steps, where sequences start, and the labels."""
        found = hashlib.sha256()
        for array in (self.steps, self.starts.astype(np.int64), self.labels.astype(np.int64)):
            found.update(repr((array.dtype.str, array.shape)).encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def _row(self, row: int) -> Tensor:
        found = self.steps[self.starts[row] : self.starts[row + 1]]
        if self.form.features is None:
            return torch.from_numpy(found.astype(np.int64))
        return torch.from_numpy(found.astype(np.float32)) * self.form.scale + self.form.shift

    def _check(self) -> None:
        form, rows = self.form, (1 + self.form.pairs) * len(self.labels)
        shape = () if form.features is None else (form.features,)
        if len(self.labels) == 0:
            raise ValueError("labels must hold at least one label, got none")
        if self.steps.shape[1:] != shape:
            raise ValueError(
                f"steps must have shape [S{', F=' if shape else ''}{', '.join(map(str, shape))}], "
                f"got {list(self.steps.shape)}"
            )
        if (
            len(self.starts) != rows + 1
            or self.starts[0] != 0
            or self.starts[-1] != len(self.steps)
        ):
            raise ValueError(
                f"starts must hold {rows + 1} numbers from 0 to {len(self.steps)}, got "
                f"{len(self.starts)} from {self.starts[:1]} to {self.starts[-1:]}"
            )
        lengths = np.diff(self.starts)
        if lengths.min() < 1 or lengths.max() > form.length:
            raise ValueError(
                f"sequences must have 1 to {form.length} steps, got {lengths.min()} to "
                f"{lengths.max()}"
            )
        if not 0 <= self.labels.min() <= self.labels.max() < form.num_classes:
            raise ValueError(
                f"labels must be from 0 to {form.num_classes - 1}, got {self.labels.min()} to "
                f"{self.labels.max()}"
            )
        if form.vocab_size is not None:
            low, high = self.steps.min(), self.steps.max()
            if not 0 <= low <= high < form.vocab_size:
                raise ValueError(
                    f"token ids must be from 0 to {form.vocab_size - 1}, got {low} to {high}"
                )


@dataclass(frozen=True)
class SequenceData:
    """The splits of a data set (`data["train"]`) and what is known about them.

    `manifest` holds its name, what it was made from, and under `sha256` the digest that belongs
    beside every score: scores from different digests can't be compared.
    """

    form: Form
    splits: Mapping[str, Sequences]
    manifest: Mapping[str, Any]

    def __getitem__(self, split: str) -> Sequences:
        if split not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {split!r}")
        return self.splits[split]

    @property
    def sha256(self) -> str:
        return self.manifest["sha256"]


def described(form: Form, splits: Mapping[str, Sequences], name: str, **about: Any) -> SequenceData:
    """Splits with their manifest: counts, digests, and one digest of everything."""
    counts = {
        split: {"examples": len(part), "steps": len(part.steps), "sha256": part.digest()}
        for split, part in splits.items()
    }
    total = hashlib.sha256(
        repr((form, sorted((k, v["sha256"]) for k, v in counts.items()))).encode()
    )
    manifest = {"name": name, **about, "splits": counts, "sha256": total.hexdigest()}
    return SequenceData(form, splits, manifest)
