# SPDX-License-Identifier: Apache-2.0
"""exp, softplus and sigmoid of CPU kernels: accuracy, and the numbers at the edges."""

import numpy as np
import pytest
from seqlib_kernels._core.exponential import exp, sigmoid, softplus, softplus_slope
from seqlib_kernels._core.rows import compile_kernel

INF, NAN = float("inf"), float("nan")


@compile_kernel
def exp_all(y, x):
    for i in range(x.shape[0]):
        y[i] = exp(x[i])


@compile_kernel
def softplus_all(y, x):
    for i in range(x.shape[0]):
        y[i] = softplus(x[i])


@compile_kernel
def sigmoid_all(y, x):
    for i in range(x.shape[0]):
        y[i] = sigmoid(x[i])


@compile_kernel
def slope_all(y, x):
    for i in range(x.shape[0]):
        y[i] = softplus_slope(x[i])


def wide_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1 + e)


def wide_softplus(x):
    return np.where(x > 20, x, np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


# Measured in float32, in units in the last place: 1.0, 3.5, 2.3, 2.3; float64 2 or fewer.
FUNCTIONS = {
    "exp": (exp_all, np.exp, 1.5, (-104, 88)),
    "softplus": (softplus_all, wide_softplus, 4, (-80, 40)),
    "sigmoid": (sigmoid_all, wide_sigmoid, 3, (-80, 40)),
    "slope": (slope_all, lambda x: np.where(x > 20, 1.0, wide_sigmoid(x)), 3, (-80, 40)),
}


@pytest.mark.parametrize(("kernel", "exact", "bound", "span"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_float32(kernel, exact, bound, span):
    x = np.random.default_rng(0).uniform(*span, 200_000).astype(np.float32)
    x[: len(x) // 2] /= 10  # half of them where most step sizes lie
    y = np.empty_like(x)
    kernel(y, x)
    want = exact(x.astype(np.float64))
    unit = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    assert (np.abs(y - want) / unit).max() <= bound


@pytest.mark.parametrize(("kernel", "exact", "bound", "span"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_float64(kernel, exact, bound, span):
    x = np.random.default_rng(0).uniform(*span, 10_000)
    y = np.empty_like(x)
    kernel(y, x)
    np.testing.assert_allclose(y, exact(x), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges(dtype):
    x = np.array([-INF, -1000, 0, 1000, INF, NAN], dtype)
    wanted = {
        exp_all: [0, 0, 1, INF, INF, NAN],
        softplus_all: [0, 0, np.log(2), 1000, INF, NAN],
        sigmoid_all: [0, 0, 0.5, 1, 1, NAN],
        slope_all: [0, 0, 0.5, 1, 1, NAN],
    }
    for kernel, want in wanted.items():
        if dtype == np.float64 and kernel is exp_all:
            continue  # the C library's
        y = np.empty_like(x)
        kernel(y, x)
        np.testing.assert_array_max_ulp(y, np.array(want, dtype), maxulp=1)


def test_underflow_and_overflow():
    x = np.array([-87.5, -103.0, -103.9, -104.0, 88.7, 88.73], np.float32)
    y = np.empty_like(x)
    exp_all(y, x)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_array_max_ulp(y, np.exp(x.astype(np.float64)).astype(np.float32), 2)
    assert 0 < y[2] < np.finfo(np.float32).tiny
    assert y[3] == 0
    assert y[5] == INF
