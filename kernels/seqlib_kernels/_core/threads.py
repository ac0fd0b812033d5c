# SPDX-License-Identifier: Apache-2.0
"""Coarse parallel work for compiled CPU kernels that release the interpreter lock."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch


def count(elements: int, grain: int = 1 << 15) -> int:
    """How many threads are worth their start for this many elements, at most torch's number."""
    return max(1, min(torch.get_num_threads(), elements // grain))


def split(work: Callable[[int, int], None], jobs: int, threads: int) -> None:
    """Run `work(first, last)` over [0, jobs) in at most `threads` even pieces, side by side.

    `work` should spend its time in code that releases the interpreter lock. One piece runs on
    the calling thread, so that one thread costs nothing. Plain threads, and no OpenMP region,
    because they neither spin when the machine is busy nor forbid a later fork.
    """
    threads = min(threads, jobs)
    if threads <= 1:
        if jobs:
            work(0, jobs)
        return
    edges = [jobs * i // threads for i in range(threads + 1)]
    pieces = list(pairwise(edges))[1:]
    others = [_pool(os.getpid()).submit(work, *piece) for piece in pieces]
    work(0, edges[1])
    for other, piece in zip(others, pieces, strict=True):
        # On a busy machine another thread may get no core for milliseconds: what nobody has begun
        # is done here.
        if other.cancel():
            work(*piece)
        else:
            other.result()


@functools.cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """One pool per process: a forked child inherits the object but not its threads."""
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), f"seqlib-kernels-{pid}")
