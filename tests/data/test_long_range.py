# SPDX-License-Identifier: Apache-2.0
"""Long sequences: published ListOps, answers by second definitions, what images must not tell."""

import hashlib
import json
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from seqlib.data.long_range import (
    SPLITS,
    Form,
    ListOps,
    Pathfinder,
    Sequences,
    digits,
    load_sequences,
)
from seqlib.data.long_range.listops import END, TOKENS, ZERO, text
from seqlib.data.long_range.pathfinder import draw
from seqlib.data.state_tracking import stream

GOLDEN = np.load(Path(__file__).resolve().parents[1] / "golden" / "ssm" / "listops_small.npz")
SMALL = ListOps(max_depth=6, max_args=5, longer_than=20, shorter_than=128)
PUBLISHED = ListOps(max_depth=5, max_args=5, longer_than=10, shorter_than=80)


def value_on_a_stack(words):
    """The second definition: a stack of words, and numpy's own median."""
    stack = []
    for word in words:
        if word != "]":
            stack.append(word)
            continue
        values = []
        while not stack[-1].startswith("["):
            values.append(int(stack.pop()))
        operation = stack.pop()
        found = {
            "[MIN": np.min,
            "[MAX": np.max,
            "[MED": lambda v: int(np.median(v)),
            "[SM": lambda v: np.sum(v) % 10,
        }[operation](values)
        stack.append(str(int(found)))
    (answer,) = stack
    return int(answer)


def shape_of(words):
    """(depth, most arguments) of an expression."""
    depth = deepest = most = 0
    arguments = []
    for word in words:
        if word == "]":
            most = max(most, arguments.pop())
            depth -= 1
            continue
        if arguments:
            arguments[-1] += 1
        if word.startswith("["):
            arguments.append(0)
            depth += 1
        deepest = max(deepest, depth + (not word.startswith("[")))
    return deepest, most


def published():
    for tokens, length, label in zip(
        *(GOLDEN[k] for k in ("tokens", "lengths", "labels")), strict=True
    ):
        yield tokens[:length], int(label)


def ours(settings, count, name="listops"):
    for i in range(count):
        yield settings.example(stream(0, name, "train", i))


def test_published_expressions_are_ours_in_tokens_and_answers():
    for tokens, label in published():
        words = text(tokens + ZERO).split()
        assert value_on_a_stack(words) == label
        assert PUBLISHED.longer_than < len(words) < PUBLISHED.shorter_than
        depth, most = shape_of(words)
        assert depth <= PUBLISHED.max_depth
        assert most <= PUBLISHED.max_args


@pytest.mark.parametrize("settings", [PUBLISHED, SMALL, ListOps()])
def test_answers_lengths_and_shapes_of_expressions(settings):
    deepest = most = 0
    for tokens, label in ours(settings, 100):
        words = text(tokens).split()
        assert words.pop() == TOKENS[END]
        assert value_on_a_stack(words) == label
        assert settings.longer_than < len(words) < settings.shorter_than
        assert len(tokens) <= settings.length
        depth, arguments = shape_of(words)
        deepest, most = max(deepest, depth), max(most, arguments)
    assert deepest == settings.max_depth
    assert most == settings.max_args


def test_expressions_are_distributed_as_the_published_ones():
    """Share of each token, and the mean length, within four standard errors of 200 examples."""
    theirs = [tokens + ZERO for tokens, _ in published()]
    mine = [tokens[:-1] for tokens, _ in ours(PUBLISHED, 1000)]

    def shares(examples):
        counts = [np.bincount(tokens, minlength=len(TOKENS)) / len(tokens) for tokens in examples]
        return np.stack(counts)

    for a, b in (
        (shares(theirs), shares(mine)),
        (np.array([len(t) for t in theirs])[:, None], np.array([len(t) for t in mine])[:, None]),
    ):
        error = a.std(0) * np.sqrt(1 / len(a) + 1 / len(b))
        assert (np.abs(a.mean(0) - b.mean(0)) <= 4 * error + 1e-12).all()


def test_the_median_of_two_is_rounded_down():
    assert value_on_a_stack(["[MED", "2", "5", "]"]) == 3
    found = {
        (text(tokens), label)
        for tokens, label in ours(
            ListOps(max_depth=2, max_args=2, longer_than=3, shorter_than=5), 2000
        )
    }
    assert ("[MED 2 5 ] <eos>", 3) in found
    assert all(value_on_a_stack(t.split()[:-1]) == label for t, label in found)


@pytest.mark.parametrize(
    ("name", "settings", "digest"),
    [
        ("listops", ListOps(), "0b889d393e968caf22c6af9f1061abec0ae22d4a82697946f784deed7deda95a"),
        ("listops-s", SMALL, "0245df16ef96c6075dce6fae74531909df434a504f4ebbd903f8d87ce8f41c6d"),
    ],
)
def test_the_first_hundred_expressions_stay_the_same(name, settings, digest):
    found = hashlib.sha256()
    for tokens, label in ours(settings, 100, name):
        found.update(tokens.tobytes() + bytes([label]))
    assert found.hexdigest() == digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 1}, r"max_depth and max_args must be at least 2, got 1 and 10"),
        ({"max_args": 1}, r"at least 2, got 10 and 1"),
        ({"longer_than": 2}, r"longer_than must be at least 3 .* got 2 and 2000"),
        ({"longer_than": 50, "shorter_than": 51}, r"greater by two or more, got 50 and 51"),
    ],
)
def test_expressions_that_no_tree_has(options, message):
    with pytest.raises(ValueError, match=message):
        ListOps(**options)


def scenes(size, count):
    for i in range(count):
        connected = bool(i % 2)
        yield Pathfinder(size).scene(stream(0, f"pathfinder-{size}", "train", i), connected)


def joined(scene, size, fine=8, radius=1.6):
    """Whether a flood from one disc reaches the other, gaps of lines (up to 3) filled."""
    grid = np.zeros((size * fine, size * fine), bool)
    reach = int(radius * fine)
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2)
    offsets = offsets[(offsets**2).sum(1) <= (radius * fine) ** 2]
    for a, b in scene.dashes:
        line = a + np.linspace(0, 1, 3 * fine)[:, None] * (b - a)
        spots = (np.rint(line * fine)[:, None] + offsets).astype(int).reshape(-1, 2)
        spots = spots[((spots >= 0) & (spots < size * fine)).all(1)]
        grid[tuple(spots.T)] = True
    start, end = (tuple(np.rint(disc * fine).astype(int)) for disc in scene.discs)
    assert grid[start]
    assert grid[end]
    queue, seen = deque([start]), {start}
    while queue:
        x, y = queue.popleft()
        for spot in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if spot not in seen and min(spot) >= 0 and max(spot) < size * fine and grid[spot]:
                seen.add(spot)
                queue.append(spot)
    return end in seen


@pytest.mark.parametrize(("size", "count"), [(32, 60), (64, 20), (128, 10)])
def test_discs_are_connected_as_the_label_says(size, count):
    assert [joined(scene, size) for scene in scenes(size, count)] == [
        bool(i % 2) for i in range(count)
    ]


@pytest.fixture(scope="module")
def images():
    made = [(draw(scene, 32), scene) for scene in scenes(32, 800)]
    return np.stack([image for image, _ in made]), [scene for _, scene in made]


def test_images_look_alike_whatever_their_label(images):
    """Neither the mean nor all the ink tells the label, nor does a linear classifier of pixels."""
    pixels = images[0].reshape(len(images[0]), -1).astype(float)
    labels = np.arange(len(pixels)) % 2
    ink = pixels.mean(1)
    means = [ink[labels == label].mean() for label in (0, 1)]
    assert abs(means[0] / means[1] - 1) < 0.01
    train, test = np.arange(len(pixels)) < 600, np.arange(len(pixels)) >= 600
    x = np.column_stack((pixels / 255, ink / 255, np.ones(len(pixels))))
    # ridge regression: 1025 weights from 600 images
    weights = np.linalg.solve(
        x[train].T @ x[train] + 100 * np.eye(x.shape[1]), x[train].T @ (labels[train] - 0.5)
    )
    right = ((x[test] @ weights > 0) == labels[test]).mean()
    # 52 %, and two standard errors of 200 images
    assert right < 0.52 + 2 * 0.5 / np.sqrt(test.sum())


def test_the_distance_of_the_discs_does_not_tell_the_label(images):
    apart = np.array([np.linalg.norm(s.discs[0] - s.discs[1]) for s in images[1]])
    labels = np.array([s.connected for s in images[1]])
    a, b = apart[labels], apart[~labels]
    error = apart.std() * np.sqrt(1 / len(a) + 1 / len(b))
    assert abs(a.mean() - b.mean()) < 4 * error
    assert 0.5 < a.std() / b.std() < 2


def test_images_hold_two_discs_and_dashes_inside_the_frame(images):
    for image, scene in zip(images[0][:50], images[1], strict=False):
        assert scene.dashes.shape == (2 * 6 + 6 * 2, 2, 2)
        assert np.allclose(np.linalg.norm(scene.dashes[:, 0] - scene.dashes[:, 1], axis=1), 2)
        assert image.dtype == np.uint8
        assert scene.dashes.min() > 2
        assert scene.dashes.max() < 30
        for disc in scene.discs:  # a pixel's middle is half a pixel from its corner
            assert image[tuple(disc.astype(int))] == 255


def test_a_size_of_image_that_is_unknown():
    with pytest.raises(ValueError, match=r"must be one of 32, 64, 128, got 33"):
        Pathfinder(33)


@pytest.mark.parametrize("name", ["listops-s", "pathfinder-32"])
def test_generated_data_is_kept_and_prolonged(tmp_path, name, monkeypatch):
    first = load_sequences(name, sizes=[12, 5, 5], cache_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"] == first.sha256
    assert {s: manifest["splits"][s]["examples"] for s in SPLITS} == {
        "train": 12,
        "validation": 5,
        "test": 5,
    }
    assert [len(first[split]) for split in SPLITS] == [12, 5, 5]
    again = load_sequences(name, sizes=[12, 5, 5], cache_dir=tmp_path / "elsewhere")
    assert again.sha256 == first.sha256
    longer = load_sequences(name, sizes=[14, 5, 5], cache_dir=tmp_path)
    assert longer.sha256 != first.sha256
    for split in SPLITS:
        for i in range(5):
            a, b = first[split][i], longer[split][i]
            assert a["labels"] == b["labels"]
            assert all(torch.equal(a[k], b[k]) for k in a.keys() - {"labels"})
    other = load_sequences(name, sizes=[12, 5, 5], seed=1, cache_dir=tmp_path)
    assert other.sha256 != first.sha256
    monkeypatch.setattr("seqlib.data.long_range.generated._write", None)
    read = load_sequences(name, sizes=[12, 5, 5], cache_dir=tmp_path)
    assert read["train"].digest() == first["train"].digest()
    assert read.manifest == json.loads((folder / "manifest.json").read_text())


def test_no_example_is_drawn_twice(tmp_path, monkeypatch):
    from seqlib.data.long_range import generated

    few = ListOps(max_depth=2, max_args=2, longer_than=3, shorter_than=5)  # 400 expressions
    monkeypatch.setitem(generated.GENERATORS, "listops-s", generated._listops(few, (300, 40, 40)))
    data = load_sequences("listops-s", cache_dir=tmp_path)
    seen = Counter(
        tuple(data[split][i]["input_ids"].tolist())
        for split in SPLITS
        for i in range(len(data[split]))
    )
    assert len(seen) == 380


def test_damaged_files_are_named(tmp_path):
    load_sequences("listops-s", sizes=[2, 1, 1], cache_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "test.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"test.npz must hold \d+ bytes, found 0: delete .* again"):
        load_sequences("listops-s", sizes=[2, 1, 1], cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("listop", {}, r"no task 'listop'; did you mean 'listops'"),
        ("listops-s", {"sizes": [1, 1]}, r"three positive numbers .* got \(1, 1\)"),
        ("listops-s", {"sizes": [1, 1, 0]}, r"three positive numbers .* got \(1, 1, 0\)"),
        ("digits", {"sizes": [1, 1, 1]}, r"sizes go with generated data, and digits is not"),
    ],
)
def test_data_that_is_refused(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        load_sequences(name, cache_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    found = {}
    for permuted in (False, True):
        data = digits(permuted=permuted)
        assert list(data.splits) == ["train", "test"]
        rows, classes = (
            torch.cat(part)
            for part in zip(*(p.stacked() for p in data.splits.values()), strict=True)
        )
        assert rows.shape == (1797, 64, 1)
        assert rows.dtype == torch.float32
        found[permuted] = (rows, classes)
        assert [len(part) for part in data.splits.values()] == [1347, 450]
    rows, classes = found[False]
    order = np.random.default_rng(0).permutation(1797)
    assert torch.equal(8 * rows[..., 0].double() + 8, torch.from_numpy(images[order]))
    assert classes.tolist() == labels[order].tolist()
    # one other order of the same pixels
    moved = np.random.default_rng(1).permutation(64)
    assert torch.equal(found[True][0], rows[:, moved])


def test_a_neighbour_knows_the_digits():
    """The bar of a pixel-wise nearest neighbour: 98.9 % on these 450."""
    pytest.importorskip("sklearn")
    (x, y), (u, v) = (digits()[split].stacked() for split in ("train", "test"))
    nearest = torch.cdist(u[..., 0], x[..., 0]).argmin(1)
    assert (y[nearest] == v).double().mean().item() == pytest.approx(0.989, abs=5e-4)


TOKENS_FORM = Form(num_classes=3, length=4, vocab_size=9)
VALUES_FORM = Form(num_classes=2, length=3, features=2, scale=0.5, shift=-1.0)


def test_batches_of_tokens():
    part = Sequences(
        TOKENS_FORM, np.array([5, 6, 7, 8, 5], np.uint8), np.array([0, 1, 5]), np.array([2, 0])
    )
    batch = part.collate([part[0], part[1]])
    assert batch["input_ids"].tolist() == [[5, 0, 0, 0], [6, 7, 8, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [2, 0]
    assert "attention_mask" not in part.collate([part[0]])
    assert part.majority() == 0.5


def test_batches_of_numbers():
    rows = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    part = Sequences.of_one_length(VALUES_FORM, rows, np.array([0, 1]))
    batch = part.collate([part[0], part[1]])
    assert batch.keys() == {"input_values", "labels"}
    assert torch.equal(batch["input_values"], torch.from_numpy(rows).float() / 2 - 1)


def test_batches_of_pairs():
    form = Form(num_classes=2, length=3, vocab_size=9, pairs=True)
    part = Sequences(
        form, np.array([1, 2, 3, 4, 5, 6]), np.array([0, 1, 3, 5, 6]), np.array([1, 0])
    )
    batch = part.collate([part[0], part[1]])
    assert batch["input_ids"].tolist() == [[1, 0], [4, 5]]
    assert batch["pair_input_ids"].tolist() == [[2, 3], [6, 0]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["pair_attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("form", "steps", "starts", "labels", "message"),
    [
        (TOKENS_FORM, [1, 2], [0, 2], [3], r"labels must be from 0 to 2, got 3 to 3"),
        (TOKENS_FORM, [1, 2], [0, 2], [], r"labels must hold at least one label, got none"),
        (TOKENS_FORM, [1, 9], [0, 2], [0], r"token ids must be from 0 to 8, got 1 to 9"),
        (TOKENS_FORM, [1, 2], [0, 1], [0], r"starts must hold 2 numbers from 0 to 2"),
        (TOKENS_FORM, [1, 2], [0, 0, 2], [0, 1], r"must have 1 to 4 steps, got 0 to 2"),
        (TOKENS_FORM, [1] * 5, [0, 5], [0], r"must have 1 to 4 steps, got 5 to 5"),
        (VALUES_FORM, [1, 2], [0, 2], [0], r"steps must have shape \[S, F=2\], got \[2\]"),
        (TOKENS_FORM, [[1], [2]], [0, 2], [0], r"steps must have shape \[S\], got \[2, 1\]"),
    ],
)
def test_arrays_that_do_not_belong_together(form, steps, starts, labels, message):
    with pytest.raises(ValueError, match=message):
        Sequences(form, np.array(steps), np.array(starts), np.array(labels, np.int64))
