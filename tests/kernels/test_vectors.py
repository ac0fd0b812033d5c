# SPDX-License-Identifier: Apache-2.0
"""Vectors as values inside compiled loops: what they load, compute and store."""

import numpy as np
import pytest
from seqlib_kernels._core.rows import compile_kernel
from seqlib_kernels._core.vectors import load, store, width, zeros


@compile_kernel
def lanes(row):
    return width(row)


@compile_kernel
def combine(out, x, y, first):
    """Two vectors from `first` on: x y + x - y, and a sum over steps that starts at zero."""
    a, b = load(x, first), load(y, first)
    total = zeros(x)
    for _ in range(3):
        total = total + a
    store(out, first, a * b + a - b)
    store(out, first + width(x), total)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors(dtype):
    x, y = np.random.default_rng(0).normal(size=(2, 64)).astype(dtype)
    n = lanes(x)
    assert n * x.itemsize in (32, 64)
    out = np.full_like(x, np.nan)
    first = 3  # no particular alignment
    combine(out, x, y, first)
    at = slice(first, first + n)
    np.testing.assert_allclose(out[at], x[at] * y[at] + x[at] - y[at], rtol=1e-5)
    np.testing.assert_allclose(out[first + n : first + 2 * n], 3 * x[at], rtol=1e-6)
    assert np.isnan(out[:first]).all()
    assert np.isnan(out[first + 2 * n :]).all()
