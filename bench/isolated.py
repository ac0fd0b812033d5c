# SPDX-License-Identifier: Apache-2.0
"""Work in processes of its own, which may crash or hang: a fault on a GPU ends its process."""

import contextlib
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

GRACE_S = 10


class Crashed(Exception):
    """The process died, hung or raised; the next call gets a new one."""


class NotStartedError(Exception):
    """A process could not make its function: no request is to blame."""


class OutOfTimeError(Exception):
    """The deadline of the caller passed."""


class Isolated:
    """A function that runs in another process.

    Args:
        make: `make(*arguments)`, called in the process, returns the function. It must be found by
            its name in a module.
        arguments: pickled on their way.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        self._make = make
        self._arguments = arguments
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, *request: Any, limit_s: float, deadline: float) -> Any:
        """What the function returns for `request`; `limit_s` begins when there is a function.

        Raises:
            Crashed: the process died, the function raised, or it took more than `limit_s`.
            NotStartedError: the process could not make its function.
            OutOfTimeError: `deadline`, of the monotonic clock, passed first.
        """
        if self._process is None:
            self._start(deadline)
        self._pipe.send(request)
        return self._answer(limit_s, deadline)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join(GRACE_S)
            self._pipe.close()
            self._process = self._pipe = None

    def _start(self, deadline: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._make, self._arguments), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self._answer(math.inf, deadline)
        except Crashed as error:
            raise NotStartedError(str(error)) from None

    def _answer(self, limit_s: float, deadline: float) -> Any:
        process, pipe = self._process, self._pipe
        left = deadline - time.monotonic()
        try:
            if not pipe.poll(max(0.0, min(limit_s, left))):
                self.close()
                if left <= limit_s:
                    raise OutOfTimeError
                raise Crashed(f"no answer within {limit_s:g} s")
            right, answer = pipe.recv()
        except (EOFError, OSError):
            process.join(GRACE_S)
            self.close()
            raise Crashed(f"the process ended with {_code(process.exitcode)}") from None
        if not right:
            self.close()
            raise Crashed(answer)
        return answer


def spread(
    workers: Sequence[Isolated],
    requests: Iterable[tuple[Any, ...]],
    *,
    limit_s: float,
    deadline: float,
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each request with its answer, or the exception in its place, as they come.

    Requests wait for a free worker, in their order.
    """
    free = list(workers)
    lock = threading.Lock()

    def run(request: tuple[Any, ...]) -> Any:
        with lock:
            worker = free.pop()
        try:
            return worker(*request, limit_s=limit_s, deadline=deadline)
        except (Crashed, NotStartedError, OutOfTimeError) as error:
            return error
        finally:
            with lock:
                free.append(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        waiting = {pool.submit(run, request): request for request in requests}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            if any(not future.done() for future in waiting):  # the caller has had enough
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in workers:
                    worker.close()


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:300]


def _serve(pipe: Connection, make: Callable[..., Callable[..., Any]], arguments: tuple) -> None:
    """Answer until the other end goes, or until something is raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it ends
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        right, function = _try(make, arguments)
        pipe.send((right, None if right else function))
        while right:
            request = pipe.recv()
            right, answer = _try(function, request)
            pipe.send((right, answer))


def _try(function: Callable[..., Any], arguments: tuple) -> tuple[bool, Any]:
    """Whether it went well, and what it returned or what was wrong."""
    try:
        return True, function(*arguments)
    except Exception as error:  # whatever a kernel raises is told, and ends the process
        return False, describe(error)


def _code(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"status {code}"
