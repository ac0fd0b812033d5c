# SPDX-License-Identifier: Apache-2.0
"""Percentiles, and contenders that take turns."""

import gc
import math

import pytest

from bench.timing import ROUNDS, Sample, summarise, take_turns


def test_percentiles_are_interpolated():
    found = summarise([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.best, found.median, found.samples) == (1.0, 3.0, 5)
    assert math.isclose(found.p20, 1.8)
    assert math.isclose(found.p80, 4.2)


def test_one_sample_is_every_percentile():
    found = summarise([0.25])
    assert found.best == found.p20 == found.median == found.p80 == 0.25


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="at least one sample"):
        summarise([])


def test_contenders_take_turns_and_the_slow_get_one_sample_a_turn():
    order = []

    def sample(run):
        run(lambda: None)
        return Sample(1.0)

    runs = {name: lambda mark, name=name: order.append(name) for name in ("a", "b")}
    samples = take_turns(runs, sample, seconds=0.0)
    assert order == ["a", "b"] * ROUNDS
    assert [len(samples[name]) for name in runs] == [ROUNDS, ROUNDS]


def test_time_given_is_used():
    samples = take_turns({"a": lambda mark: None}, lambda run: Sample(1.0), seconds=0.03)
    assert len(samples["a"]) > ROUNDS


def test_the_collector_returns_after_a_failure():
    def fail(run):
        raise RuntimeError("broken clock")

    with pytest.raises(RuntimeError, match="broken clock"):
        take_turns({"a": lambda mark: None}, fail, seconds=0.0)
    assert gc.isenabled()
