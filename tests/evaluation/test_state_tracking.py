# SPDX-License-Identifier: Apache-2.0
"""Accuracies counted by hand, and what tables and plots make of them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from seqlib.data.state_tracking import TaskExamples, make_task
from seqlib.evaluation.state_tracking import (
    TrackingScore,
    answers,
    scaled_accuracy,
    score_answers,
    track,
)
from seqlib.evaluation.tables import markdown_table
from seqlib.evaluation.tracking_plot import curves, plot_tracking
from seqlib.evaluation.tracking_report import TrackedRun, tracking_markdown, tracking_table


def rows(*texts):
    """1: asked and right, 0: asked and wrong, .: not asked."""
    right = torch.tensor([[c == "1" for c in text] for text in texts])
    asked = torch.tensor([[c != "." for c in text] for text in texts])
    return right, asked


class Oracle(nn.Module):
    """Knows the answers of some examples, and is wrong wherever it doesn't."""

    device = torch.device("cpu")

    def __init__(self, examples, known):
        super().__init__()
        self.classes = examples.task.num_classes
        items = (examples[i] for i in range(len(examples)))
        self.labels = {tuple(i["input_ids"].tolist()): i["labels"] for i in items}
        self.known = known

    def forward(self, input_ids):
        logits = torch.zeros(*input_ids.shape, self.classes)
        for row, ids in enumerate(input_ids.tolist()):
            label = next(v for k, v in self.labels.items() if tuple(ids[: len(k)]) == k)
            for t, wanted in enumerate(label.tolist()):
                if wanted >= 0:
                    said = wanted if t < self.known else (wanted + 1) % self.classes
                    logits[row, t, said] = 1
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(
    ("accuracy", "chance", "wanted"),
    [(0.5, 0.5, 0), (1, 0.2, 1), (0.6, 0.2, 0.5), (0, 0.5, -1), (1 / 60, 1 / 60, 0), (0.3, 0, 0.3)],
)
def test_a_guess_is_zero_and_all_right_is_one(accuracy, chance, wanted):
    assert scaled_accuracy(accuracy, chance) == pytest.approx(wanted)


@pytest.mark.parametrize("chance", [1.0, -0.1])
def test_a_chance_is_a_probability_below_one(chance):
    with pytest.raises(ValueError, match=f"chance must be at least 0 and below 1, got {chance}"):
        scaled_accuracy(0.5, chance)


def test_sequences_count_up_to_their_first_wrong_answer():
    score = score_answers(*rows("1111", "1101", "0111", "1110"), 0.25, 0)
    assert score.lengths == [1, 2, 3, 4]
    assert score.sequences == 4
    assert score.sequence_accuracy == [0.75, 0.75, 0.5, 0.25]
    assert score.accuracy_by_length == [0.75, 1.0, 0.75, 0.75]
    assert score.accuracy == 13 / 16
    assert score.scaled_accuracy == pytest.approx((13 / 16 - 0.25) / 0.75)
    assert score.sequence_accuracy_at(3) == 0.5
    with pytest.raises(ValueError, match="length must be from 1 to 4, got 5"):
        score.sequence_accuracy_at(5)


def test_shorter_sequences_leave_out_lengths_that_they_do_not_have():
    score = score_answers(*rows("11..", "1011", "11.."), 0.5, 0)
    assert score.sequences_by_length == [3, 3, 1, 1]
    assert score.sequence_accuracy == pytest.approx([1, 2 / 3, 0, 0])
    assert score.accuracy_by_length == pytest.approx([1, 2 / 3, 1, 1])


def test_single_answers_are_counted_by_the_length_of_their_sequence():
    score = score_answers(*rows("..1.", "..0.", "...1", "1..."), 0.5, 1)
    assert score.lengths == [2, 4, 5]
    assert score.sequences_by_length == [1, 2, 1]
    assert score.accuracy_by_length == [1, 0.5, 1]
    assert score.accuracy == 0.75
    assert score.sequence_accuracy is None
    with pytest.raises(ValueError, match="where one answer ends a sequence"):
        score.sequence_accuracy_at(4)


def test_nothing_asked_is_no_score():
    with pytest.raises(ValueError, match="no answer was asked for"):
        score_answers(*rows("..", ".."), 0.5, 0)


@pytest.mark.parametrize(("name", "shift"), [("word_problem", 0), ("parity", 1)])
def test_a_model_is_scored_on_every_example_in_batches_of_any_size(name, shift):
    options = {"group": "S3"} if name == "word_problem" else {}
    task = make_task(name, **options)
    examples = TaskExamples(task, [9, 12, 14], 40, seed=0, split="test")
    model = Oracle(examples, known=10)
    scores = [track(model, examples, batch_size) for batch_size in (1, 7, 40)]
    assert scores[0] == scores[1] == scores[2]
    score = scores[0]
    assert score.chance == task.chance
    # positions 0 .. 9 are known: prefixes up to 10 tokens, sequences up to 11 with their answer
    wanted = [float(n <= 10 + shift) for n in score.lengths]
    assert (score.sequence_accuracy or score.accuracy_by_length) == wanted
    assert score.sequences_by_length[0] == (40 if shift == 0 else score.sequences_by_length[0])


def test_scoring_leaves_the_model_in_its_mode():
    examples = TaskExamples(make_task("parity"), [5], 4, seed=0, split="test")
    model = Oracle(examples, 99)
    model.train()
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    right, asked = answers(model, [examples.collate([examples[i] for i in range(4)])])
    assert seen == [False]
    assert model.training
    assert right[asked].all()
    assert not right[:, :-1].any()


def run(model="delta_net", seed=0, negative=True, task="parity", **score):
    wanted = {
        "chance": 0.5,
        "sequences": 4,
        "accuracy": 0.9,
        "lengths": list(range(1, 17)),
        "sequences_by_length": [4] * 16,
        "accuracy_by_length": [0.9] * 16,
        "sequence_accuracy": [1 - i / 100 - seed / 10 for i in range(16)],
    }
    return TrackedRun(
        task=task,
        model=model,
        negative_eigenvalues=negative,
        seed=seed,
        trained_length=4,
        steps=10,
        minutes=1.5,
        parameters=100,
        score=TrackingScore(**{**wanted, **score}),
        origin={"commit": "abc"},
    )


def test_tables_have_a_row_per_model_over_its_seeds():
    header, found = tracking_table([run(seed=0), run(seed=1), run(seed=2), run("mamba")])
    assert header == [
        *("model", "eigenvalues", "to 4", "to 8", "to 16", "answers right"),
        *("seeds", "minutes each"),
    ]
    assert found[0] == [
        *("delta_net", "[-1, 1]", "0.870 (0.770 to 0.970)", "0.830 (0.730 to 0.930)"),
        *("0.750 (0.650 to 0.850)", "0.900", "0 1 2", "1.5"),
    ]
    assert found[1][:3] == ["mamba", "[-1, 1]", "0.970"]


def test_tasks_with_one_answer_show_scaled_accuracy():
    single = run(sequence_accuracy=None, negative=False)
    header, found = tracking_table([single])
    assert header[2] == "scaled accuracy"
    assert found[0][1:4] == ["[0, 1]", "0.800", "0.900"]
    text = tracking_markdown([single, run(task="S3")])
    assert text.count("| model") == 2
    assert "tested on 4 sequences of length 1 to 16, chance 0.5 an answer" in text
    assert "S3: sequences with all answers right, trained up to length 4" in text


def test_a_run_comes_back_from_json():
    there = run()
    assert TrackedRun.from_dict(json.loads(json.dumps(there.to_dict()))) == there


def test_curves_of_single_answers_are_averages_over_bins_of_lengths():
    lengths = list(range(40, 257))
    score = run(
        lengths=lengths,
        sequences_by_length=[n % 3 + 1 for n in lengths],
        accuracy_by_length=[1.0 if n < 148 else 0.5 for n in lengths],
        sequence_accuracy=None,
    ).score
    at, values = curves([score])
    assert at.shape == (12,)
    assert values.shape == (1, 12)
    assert (np.diff(at) > 0).all()
    np.testing.assert_allclose(values[0], np.repeat([1.0, 0.0], 6), atol=0.06)


def drawn(*lengths, right=1.0):
    """A run whose test drew these lengths, with one answer each."""
    n = len(lengths)
    return run(
        seed=sum(lengths),
        lengths=list(lengths),
        sequences_by_length=[1] * n,
        accuracy_by_length=[right] * n,
        sequence_accuracy=None,
    )


def prefixes(longest, **options):
    n = longest
    return run(
        lengths=list(range(1, n + 1)),
        sequences_by_length=[4] * n,
        accuracy_by_length=[0.9] * n,
        sequence_accuracy=[1 - i / 100 for i in range(n)],
        **options,
    )


def test_seeds_that_drew_other_lengths_make_one_curve():
    at, values = curves([drawn(8, 9, 11).score, drawn(8, 12, right=0.5).score])
    assert at.tolist() == [8, 9, 11, 12]
    np.testing.assert_array_equal(values, [[1, 1, 1, np.nan], [0, np.nan, np.nan, 0]])
    at, values = curves([prefixes(3).score, prefixes(2).score])
    assert at.tolist() == [1, 2, 3]
    np.testing.assert_allclose(values, [[1, 0.99, 0.98], [1, 0.99, np.nan]])


@pytest.mark.parametrize(
    "runs", [[drawn(8, 9, 11), drawn(8, 12)], [prefixes(13), prefixes(11, seed=1)]]
)
def test_seeds_that_drew_other_lengths_are_drawn_and_listed(runs, tmp_path):
    assert plot_tracking(runs, tmp_path / "a.png").exists()
    assert tracking_markdown(runs).count("| delta_net") == 1


def test_columns_end_at_the_longest_length_that_all_were_tested_on():
    header, _ = tracking_table([prefixes(13), prefixes(11)])
    assert header[2:-3] == ["to 4", "to 8", "to 11"]
    header, _ = tracking_table([prefixes(8)])
    assert header[2:-3] == ["to 4", "to 8"]
    header, _ = tracking_table([prefixes(3)])  # shorter than trained on
    assert header[2:-3] == ["to 3"]


def test_a_caption_holds_for_all_of_its_runs():
    text = tracking_markdown([prefixes(13), prefixes(11, sequences=9, chance=1 / 60)])
    assert "tested on 4 to 9 sequences of length 11 to 13" in text
    text = tracking_markdown([prefixes(13, chance=1 / 60)])
    assert "tested on 4 sequences of length 13, chance 0.0167 an answer" in text


def test_the_plot_is_a_png_with_a_panel_per_task(tmp_path):
    runs = [run(), run(seed=1), run(negative=False), run(task="S3"), run(sequence_accuracy=None)]
    path = plot_tracking(runs[:4], tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot_tracking(runs[4:], tmp_path / "b.png").exists()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]
    with pytest.raises(ValueError, match="at least one run"):
        plot_tracking([], tmp_path / "c.png")


def test_markdown_columns_are_aligned():
    table = markdown_table(("a", "number"), [("long name", "1"), ("b", "22")], numbers=(1,))
    assert table.splitlines() == [
        "| a         | number |",
        "| --------- | -----: |",
        "| long name |      1 |",
        "| b         |     22 |",
    ]
