# SPDX-License-Identifier: Apache-2.0
"""CPU tuning happens when training asks for it, once, and not where it is turned off."""

import logging
import subprocess
import sys

import pytest
import torch

from seqlib.training import cpu

FAULTS = """
import resource, torch
from seqlib.training import cpu

def faults():
    x + x
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        x + x
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

x = torch.zeros(12_000_000)
print(faults())
assert cpu.tune()
print(min(faults() for _ in range(5)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has mallopt")
def test_tuned_memory_is_not_mapped_afresh_every_time():
    command = [sys.executable, "-c", FAULTS]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    plain, tuned = map(int, found)
    # ten results of 48 MB are 117,000 pages; measured 117,190 plain and 0 tuned
    assert plain > 100_000
    assert tuned < 10_000


def test_tuning_can_be_turned_off(monkeypatch):
    monkeypatch.setenv(cpu.OPT_OUT, "1")
    assert not cpu.tune()


def test_tuning_is_said_once(monkeypatch, caplog):
    calls = []

    class Libc:
        @staticmethod
        def mallopt(*args):
            calls.append(args)
            return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: Libc)
    cpu._keep_freed_memory.cache_clear()
    with caplog.at_level(logging.INFO, logger="seqlib"):
        assert cpu.tune()
        assert cpu.tune()
    cpu._keep_freed_memory.cache_clear()
    assert len(calls) == 2
    assert [r.name for r in caplog.records] == ["seqlib.training.cpu"]


@pytest.mark.parametrize(("times_slower", "slow"), [(0.5, False), (2.9, False), (3.1, True)])
def test_the_speed_of_bf16_is_measured(monkeypatch, times_slower, slow):
    clock = [0.0]

    def product(x, y):
        clock[0] += times_slower if x.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(cpu.torch, "mm", product)
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: clock[0])
    assert cpu.bf16_matmul_is_slow() == slow


def test_the_number_of_threads_is_said(caplog):
    with caplog.at_level(logging.INFO, logger="seqlib"):
        cpu.say_threads(2)
    assert "2 processes of " in caplog.text
