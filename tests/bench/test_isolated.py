# SPDX-License-Identifier: Apache-2.0
"""Processes that answer, raise, die and hang, and what the caller sees of it."""

import time

import pytest

from bench.isolated import Crashed, Isolated, NotStartedError, OutOfTimeError, spread

STAND_IN = """
import os, time

def make(word):
    if word == "broken":
        raise RuntimeError("no such device")
    calls = []

    def answer(request):
        calls.append(request)
        if request == "raise":
            raise ValueError("out of resource\\nand more")
        if request == "die":
            os.abort()
        if request == "hang":
            time.sleep(600)
        return word, request, len(calls)

    return answer
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that another process finds by its name."""
    (tmp_path / "stand_in_process.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    import stand_in_process  # pyright: ignore[reportMissingImports]

    return stand_in_process.make


@pytest.fixture
def process(make):
    isolated = Isolated(make, "one")
    yield isolated
    isolated.close()


def ask(process, request, limit_s=60.0, left_s=60.0):
    return process(request, limit_s=limit_s, deadline=time.monotonic() + left_s)


def test_it_answers_and_lives_on(process):
    assert ask(process, "a") == ("one", "a", 1)
    assert ask(process, "b") == ("one", "b", 2)


def test_what_raises_or_dies_says_so_and_is_replaced(process):
    with pytest.raises(Crashed, match=r"^ValueError: out of resource$"):
        ask(process, "raise")
    assert ask(process, "a") == ("one", "a", 1)
    with pytest.raises(Crashed, match="signal SIGABRT"):
        ask(process, "die")
    assert ask(process, "a") == ("one", "a", 1)


def test_what_hangs_is_stopped(process):
    ask(process, "a")
    with pytest.raises(Crashed, match=r"no answer within 0.2 s"):
        ask(process, "hang", limit_s=0.2)
    assert ask(process, "a") == ("one", "a", 1)


def test_the_deadline_is_nobodys_fault(process):
    ask(process, "a")
    with pytest.raises(OutOfTimeError):
        ask(process, "hang", limit_s=60, left_s=0.2)


def test_a_process_that_cannot_start_blames_no_request(make):
    with pytest.raises(NotStartedError, match="no such device"):
        ask(Isolated(make, "broken"), "a")


def test_requests_are_spread_and_a_crash_takes_nothing_with_it(make):
    workers = [Isolated(make, "one"), Isolated(make, "two")]
    requests = [("a",), ("die",), ("b",), ("raise",), ("c",)]
    end = time.monotonic() + 60
    try:
        answers = dict(spread(workers, requests, limit_s=60, deadline=end))
    finally:
        for worker in workers:
            worker.close()
    assert set(answers) == set(requests)
    assert isinstance(answers["die",], Crashed)
    assert isinstance(answers["raise",], Crashed)
    assert [answers[request,][1] for request in "abc"] == ["a", "b", "c"]
