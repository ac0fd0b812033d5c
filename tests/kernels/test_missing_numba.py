# SPDX-License-Identifier: Apache-2.0
"""CPU tensors where numba is missing, as with a checkpoint that carries its code."""

import logging

import pytest
import torch
from seqlib_kernels import BackendUnavailableError, linear_scan
from seqlib_kernels._core import backend


@pytest.fixture(autouse=True)
def without_numba(monkeypatch):
    monkeypatch.setattr(backend, "_installed", lambda module: module != "numba")
    backend._say_reference.cache_clear()


def test_the_reference_serves_and_says_so_once(caplog):
    a, b = torch.rand(2, 1, 4, 3)
    with caplog.at_level(logging.WARNING):
        h, _ = linear_scan(a, b)
        linear_scan(a, b)
    want, _ = linear_scan(a, b, backend="reference")
    assert torch.equal(h, want)
    (record,) = caplog.records
    assert "no kernels for device 'cpu' without numba (pip install numba)" in record.getMessage()


def test_asking_for_the_cpu_kernels_is_an_error():
    x = torch.rand(1, 4, 3)
    with pytest.raises(BackendUnavailableError, match="numba is not installed"):
        linear_scan(x, x, backend="cpu")
