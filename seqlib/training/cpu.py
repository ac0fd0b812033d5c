# SPDX-License-Identifier: Apache-2.0
"""What makes training on a CPU fast or slow beyond its kernels: memory pages and slow matmuls."""

import ctypes
import functools
import logging
import os
import sys
import time

import torch

logger = logging.getLogger(__name__)

OPT_OUT = "SEQLIB_NO_CPU_TUNING"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def tune() -> bool:
    """Let this process keep the memory it frees; returns whether it does.

    glibc maps blocks of 32 MiB and more afresh on every allocation, and touching their new pages
    costs up to eight times what writing them does. Only Linux with glibc is changed, and not
    where the environment variable SEQLIB_NO_CPU_TUNING is set to 1. The price is that memory,
    once used, stays with the process.
    """
    if os.environ.get(OPT_OUT, "0") == "1" or not sys.platform.startswith("linux"):
        return False
    return _keep_freed_memory()


def say_threads(processes: int) -> None:
    """Log how much of this machine `processes` processes like this one use."""
    threads = torch.get_num_threads()
    logger.info("%d processes of %d threads on %d cores", processes, threads, os.cpu_count())


@functools.cache
def _keep_freed_memory() -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, 2**30) == 1 and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) == 1
    if kept:
        logger.info("freed memory stays with this process (%s=1 turns this off)", OPT_OUT)
    return kept


def bf16_matmul_is_slow() -> bool:
    """Whether a bfloat16 product takes over three times what the same one in float32 does.

    Without matrix units for it, bfloat16 is up to a hundred times slower; what the instruction
    set promises does not tell, so one small product of each is timed (a few milliseconds).
    """
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))

    def seconds(x: torch.Tensor) -> float:
        best = float("inf")
        for _ in range(4):
            start = time.perf_counter()
            torch.mm(x, x)
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(x.bfloat16()) > 3 * seconds(x)
