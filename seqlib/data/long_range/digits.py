# SPDX-License-Identifier: Apache-2.0
"""Real handwritten digits as sequences of pixels, from scikit-learn."""

import numpy as np

from .sequences import Form, SequenceData, Sequences, described

SIDE, LARGEST, CLASSES = 8, 16, 10
TRAIN = 1347
SPLIT_SEED, ORDER_SEED = 0, 1


def digits(*, permuted: bool = False) -> SequenceData:
    """1,797 images of 8 x 8 pixels as 64 steps of one number in [-1, 1], row by row.

    The images are shuffled once and for all: 1,347 to train on, 450 for the test, none for
    validation. With `permuted` the pixels of every image come in one other fixed order.

    Source: the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
    UCI Machine Learning Repository, CC BY 4.0), as scikit-learn carries it.

    Raises:
        ImportError: the package scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the task digits needs the package scikit-learn: pip install 'seqlib[data]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    rows, labels = np.asarray(images).astype(np.uint8), np.asarray(labels).astype(np.int64)
    if permuted:
        rows = rows[:, np.random.default_rng(ORDER_SEED).permutation(SIDE * SIDE)]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    form = Form(num_classes=CLASSES, length=SIDE * SIDE, features=1, scale=2 / LARGEST, shift=-1.0)
    splits = {
        split: Sequences.of_one_length(form, rows[chosen, :, None], labels[chosen])
        for split, chosen in (("train", order[:TRAIN]), ("test", order[TRAIN:]))
    }
    return described(form, splits, "digits-permuted" if permuted else "digits", licence="CC-BY-4.0")
