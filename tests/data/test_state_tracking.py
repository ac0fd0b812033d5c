# SPDX-License-Identifier: Apache-2.0
"""State-tracking tasks against published examples, second definitions, and impossible requests."""

import re
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from seqlib.data.state_tracking import (
    GROUPS,
    UNASKED,
    TaskExamples,
    WordProblem,
    group,
    make_task,
)

GOLDEN = np.load(Path(__file__).resolve().parents[1] / "golden" / "lrnn" / "tasks.npz")
FORMAL = {
    "parity": "parity",
    "modular_arithmetic": "modarith",
    "bracketed_arithmetic": "modarith_brackets",
}
LENGTHS = {"train": (3, 40), "eval": (40, 256)}
CONTEXT = 256


def parity_answer(tokens):
    assert set(tokens) <= {1, 2}
    return tokens.count(2) % 2 + 1


def arithmetic_answer(tokens):
    assert tokens[-1] == 4
    text = "".join({1: "+", 2: "-", 3: "*"}.get(t, str(t - 5)) for t in tokens[:-1])
    assert re.fullmatch(r"[0-4]([-+*][0-4])*", text)
    return eval(text) % 5 + 5


def bracketed_answer(tokens):
    assert tokens[-1] == 10
    text = "".join({5: "+", 6: "-", 7: "*", 8: "(", 9: ")"}.get(t, str(t)) for t in tokens[:-1])
    assert re.fullmatch(r"[0-4()+*-]+", text)
    return eval(text) % 5


# Python's own reading of the expressions is the second definition.
ANSWERS = {
    "parity": parity_answer,
    "modular_arithmetic": arithmetic_answer,
    "bracketed_arithmetic": bracketed_answer,
}


def published(name, split):
    """(tokens, position of the answer) of every published example."""
    stem = f"{FORMAL[name]}_{split}"
    return list(zip(GOLDEN[f"{stem}_tokens"].tolist(), GOLDEN[f"{stem}_mask"], strict=True))


@pytest.mark.parametrize("split", LENGTHS)
@pytest.mark.parametrize("name", FORMAL)
def test_published_examples_have_our_layout_and_answers(name, split):
    task = make_task(name)
    possible = task.lengths_between(LENGTHS[split], CONTEXT)
    for tokens, mask in published(name, split):
        assert len(tokens) == CONTEXT
        (position,) = mask.nonzero()[0]
        assert position + 1 in possible
        assert tokens[position] == ANSWERS[name](tokens[:position])
        assert set(tokens[position + 1 :]) <= {task.pad_token}


@pytest.mark.parametrize("split", LENGTHS)
@pytest.mark.parametrize("name", FORMAL)
def test_our_examples_have_the_published_layout_and_answers(name, split):
    task = make_task(name)
    lengths = task.lengths_between(LENGTHS[split], CONTEXT)
    seen, answers = set(), set()
    for example in map(TaskExamples(task, lengths, 300, seed=0, split=split).example, range(300)):
        tokens = example.inputs.tolist()
        assert (example.targets[:-1] == UNASKED).all()
        assert example.targets[-1] == ANSWERS[name](tokens)
        assert max(tokens) < task.vocab_size
        assert example.targets[-1] < task.num_classes
        seen.add(len(tokens) + 1)
        answers.add(int(example.targets[-1]))
    assert seen <= set(lengths)
    assert min(seen) - lengths[0] <= 8
    assert lengths[-1] - max(seen) <= 8
    assert len(answers) == round(1 / task.chance)


@pytest.mark.parametrize("name", FORMAL)
def test_every_possible_length_can_be_drawn(name):
    task = make_task(name)
    random = np.random.default_rng(0)
    for length in task.lengths_between((task.shortest, 60), CONTEXT):
        assert len(task.example(random, length).inputs) == length - 1


def test_bracketed_expressions_follow_the_grammar():
    """Each is a digit, -digit, (digit), (-digit) or (left sign right), of the length asked for."""
    task = make_task("bracketed_arithmetic", multiplication=True)
    random = np.random.default_rng(0)
    for length in range(3, 80):
        inputs = task.example(random, length).inputs.tolist()
        text = "".join("01234+-*()"[t] for t in inputs[:-1])
        atom = r"(?:-?[0-4]|\(-?[0-4]\)|E)"
        for _ in range(len(text)):
            text = re.sub(rf"\({atom}[-+*]{atom}\)", "E", text)
        assert re.fullmatch(atom, text), text


def test_multiplication_is_an_option():
    def signs(**options):
        task = make_task("bracketed_arithmetic", **options)
        examples = TaskExamples(task, [40], 50, seed=0, split="train")
        tokens = np.concatenate([examples.example(i).inputs for i in range(50)])
        return set(tokens) & {5, 6, 7}

    assert signs() == {5, 6}
    assert signs(multiplication=True) == {5, 6, 7}


@pytest.mark.parametrize("name", ["S3", "S4", "A5", "Z60", "S5"])
def test_groups_and_their_words_are_the_published_ones(name):
    np.testing.assert_array_equal(group(name).table, GOLDEN[f"{name}_table"])
    task = WordProblem(name)
    for word, products in zip(
        GOLDEN[f"{name}_words"], GOLDEN[f"{name}_prefix_products"], strict=True
    ):
        np.testing.assert_array_equal(task.prefix_products(word), products)


@pytest.mark.parametrize("name", GROUPS)
def test_tables_are_groups(name):
    table = group(name).table
    n = len(table)
    everything = np.arange(n)
    np.testing.assert_array_equal(table[0], everything)
    np.testing.assert_array_equal(table[:, 0], everything)
    np.testing.assert_array_equal(np.sort(table, 0), np.tile(everything[:, None], n))
    a, b, c = np.random.default_rng(0).integers(n, size=(3, 500))
    np.testing.assert_array_equal(table[table[a, b], c], table[a, table[b, c]])


@pytest.mark.parametrize(
    ("name", "subset", "count"),
    [
        ("S5", "all", 120),
        ("S5", "swaps", 1 + 10),
        ("S5", "three_points", 1 + 10 + 20),
        ("S3", "swaps", 1 + 3),
        ("A5", "three_points", 1 + 20),
        ("Z60", "all", 60),
    ],
)
def test_subsets_of_elements(name, subset, count):
    task = WordProblem(name, subset=subset)
    assert len(task.elements) == count
    inputs, targets = task.example(np.random.default_rng(0), 2000)
    assert set(inputs) == set(task.elements)
    if subset == "swaps":  # a transposition is its own inverse
        assert (task.group.table[task.elements, task.elements] == 0).all()
    np.testing.assert_array_equal(targets, task.prefix_products(inputs))


def test_parity_of_every_prefix_is_the_word_problem_of_two_elements():
    inputs, targets = WordProblem("Z2").example(np.random.default_rng(0), 100)
    np.testing.assert_array_equal(targets, inputs.cumsum() % 2)


def test_four_tokens_per_transition():
    task = make_task("word_problem", group="S5", tokens_per_transition=4)
    assert (task.vocab_size, task.num_classes, task.filler) == (121, 120, 120)
    inputs, targets = task.example(np.random.default_rng(0), 66)  # ends inside a transition
    assert len(inputs) == len(targets) == 66
    word = inputs[::4]
    assert (word < 120).all()
    assert all((inputs[i::4] == 120).all() for i in (1, 2, 3))
    assert (targets[:3] == 0).all()
    products = task.prefix_products(word)
    np.testing.assert_array_equal(targets[3:], products.repeat(4)[:63])
    # the product of a transition is asked for after its last filler
    np.testing.assert_array_equal(targets[3::4], products[:16])


def test_an_example_depends_on_seed_task_split_and_index_alone():
    def examples(seed=0, split="train", size=50, name="parity", **options):
        task = make_task(name, **options)
        lengths = [30] if name == "word_problem" else range(21, 41, 2)
        return TaskExamples(task, lengths, size, seed=seed, split=split)

    one, same = examples(), examples(size=1000)
    for i in (49, 7, 0):  # in any order
        np.testing.assert_array_equal(one.example(i).inputs, same.example(i).inputs)

    def first(data):
        return [data.example(i).inputs.tolist() for i in range(10)]

    others = [examples(seed=1), examples(split="test"), examples(name="modular_arithmetic")]
    assert all(first(other) != first(one) for other in others)
    assert len({tuple(row) for row in first(one)}) == 10
    swaps = examples(name="word_problem", group="S3", subset="swaps")
    assert first(swaps) != first(examples(name="word_problem", group="S3"))


def test_test_examples_are_none_of_the_training_examples():
    """Of 2^39 sequences none is drawn twice; of the 4 shortest, all are in both sets by chance."""

    def drawn(split, length):
        data = TaskExamples(make_task("parity"), [length], 2000, seed=0, split=split)
        return {tuple(data.example(i).inputs) for i in range(len(data))}

    assert len(drawn("train", 40) | drawn("test", 40)) == 4000
    assert drawn("train", 3) == drawn("test", 3)
    assert len(drawn("train", 3)) == 4


def test_the_stream_is_the_one_of_every_version():
    """Numbers written down once: a change here changes every trained model."""
    words = TaskExamples(WordProblem("S5"), [8], 10, seed=0, split="train")
    assert words.example(3).inputs.tolist() == [12, 106, 23, 96, 25, 62, 65, 33]


def test_workers_give_the_same_batches():
    task = make_task("parity")
    data = TaskExamples(task, task.lengths_between((3, 40), 64), 32, seed=0, split="train")

    def batches(workers):
        loader = DataLoader(data, 8, num_workers=workers, collate_fn=data.collate)
        return [batch["input_ids"].tolist() for batch in loader]

    assert batches(2) == batches(0)


def test_batches_are_filled_up_where_nothing_is_asked():
    task = make_task("bracketed_arithmetic")
    data = TaskExamples(task, [5, 17], 16, seed=0, split="train")
    items = [data[i] for i in range(16)]
    batch = data.collate(items)
    assert batch["input_ids"].shape == batch["labels"].shape == (16, 16)
    for item, inputs, labels in zip(items, batch["input_ids"], batch["labels"], strict=True):
        n = len(item["input_ids"])
        assert inputs[:n].tolist() == item["input_ids"].tolist()
        assert (inputs[n:] == 11).all()
        assert (labels[n:] == UNASKED).all()


@pytest.mark.parametrize(
    ("name", "lengths", "message"),
    [
        ("parity", (40, 3), r"two numbers, shortest first, got \[40, 3\]"),
        ("parity", (3,), r"two numbers, shortest first, got \[3\]"),
        ("parity", (1, 40), r"lengths of parity start at 2, got \[1, 40\]"),
        ("word_problem", (0, 4), r"lengths of word_problem start at 1, got \[0, 4\]"),
        ("bracketed_arithmetic", (2, 40), r"start at 3, got \[2, 40\]"),
        ("parity", (40, 257), r"must not exceed the context of 256 tokens, got \[40, 257\]"),
        ("modular_arithmetic", (40, 40), r"must be odd .* and at least 3, got 40"),
    ],
)
def test_impossible_ranges_of_lengths(name, lengths, message):
    with pytest.raises(ValueError, match=message):
        make_task(name).lengths_between(lengths, CONTEXT)


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("modular_arithmetic", 8, r"must be odd .* got 8"),
        ("modular_arithmetic", 1, r"at least 3, got 1"),
        ("parity", 1, r"parity must be at least 2, got 1"),
        ("bracketed_arithmetic", 2, r"must be at least 3, got 2"),
        ("word_problem", 0, r"must be at least 1, got 0"),
    ],
)
def test_impossible_lengths(name, length, message):
    with pytest.raises(ValueError, match=message):
        make_task(name).example(np.random.default_rng(0), length)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("party", {}, r"no task 'party'; did you mean 'parity'"),
        ("word_problem", {"group": "S55"}, r"no group 'S55'; did you mean 'S5'"),
        ("word_problem", {"group": "D8"}, r"no group 'D8'; known: A5, S3"),
        ("word_problem", {"subset": "swap"}, r"no subset 'swap'; did you mean 'swaps'"),
        ("word_problem", {"group": "A5", "subset": "swaps"}, r"nothing but the identity"),
        ("word_problem", {"group": "Z60", "subset": "swaps"}, r"'all' for Z60.* got 'swaps'"),
        ("word_problem", {"tokens_per_transition": 0}, r"must be at least 1, got 0"),
        ("parity", {"group": "S5"}, r"no option of parity 'group'"),
        ("bracketed_arithmetic", {"multiplicaton": True}, r"did you mean 'multiplication'"),
    ],
)
def test_unknown_names(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **options)


@pytest.mark.parametrize(
    ("name", "lengths", "message"),
    [
        ("parity", [], r"lengths of train examples must be given, got none"),
        ("parity", [5, 1], r"parity must be at least 2, got 1"),
        ("modular_arithmetic", range(3, 6), r"must be odd .* got 4"),
    ],
)
def test_a_set_of_impossible_lengths(name, lengths, message):
    with pytest.raises(ValueError, match=message):
        TaskExamples(make_task(name), lengths, 8, seed=0, split="train")


def test_a_set_without_examples():
    with pytest.raises(ValueError, match="number of train examples must be at least 1, got 0"):
        TaskExamples(make_task("parity"), [8], 0, seed=0, split="train")
