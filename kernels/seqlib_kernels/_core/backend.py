# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs: the plain reference, the CPU kernels or the Triton kernels."""

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from torch import Tensor

logger = logging.getLogger(__name__)

Backend = Literal["reference", "cpu", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)

# Process-wide on purpose: autograd runs the backward pass on threads of its own.
_forced: str | None = None


class BackendUnavailableError(RuntimeError):
    """The backend asked for can't run on these tensors or on this machine."""


def _constant(function: Callable) -> Callable:
    """Let torch.compile call `function` while it traces and keep the result.

    The same as torch.compiler.assume_constant_result, which costs everyone who imports this
    module 1.5 s, because it imports the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@contextlib.contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Run every op inside the block on backend `name`, unless a call names another one.

    Raises:
        ValueError: `name` is not one of "reference", "cpu", "triton".
    """
    global _forced
    _check_name(name)
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


def resolve(x: Tensor, backend: str | None) -> str:
    """The backend that will run an op whose inputs live where `x` lives.

    An explicit `backend` wins over `use_backend`, which wins over the device: Triton on CUDA
    and ROCm tensors, the CPU kernels on CPU tensors, the reference anywhere else. The reference
    also serves CPU tensors where numba is missing, which only happens to a checkpoint that
    carries its code.

    Raises:
        ValueError: an unknown name.
        BackendUnavailableError: the backend asked for can't run here. Nothing falls back.
    """
    device = x.device.type
    name = backend if backend is not None else _forced
    if name is None:
        name = _default(device)
    _check_name(name)
    problem = _problem(name, device)
    if problem is not None:
        raise BackendUnavailableError(f"backend '{name}' was asked for, but {problem}")
    return name


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's CPU interpreter in this process."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")


# Caches sit below these two: the compiler does not see that a cached function is constant.
@_constant
def _default(device: str) -> str:
    """The backend for tensors of type `device`; said once when it is the reference."""
    name = {"cuda": "triton", "cpu": "cpu"}.get(device, "reference")
    if name == "cpu" and not _installed("numba"):
        name = "reference"
    if name == "reference":
        _say_reference(device)
    return name


@_constant
def _problem(name: str, device: str) -> str | None:
    """Why backend `name` can't run on tensors of type `device`; None when it can."""
    if name == "cpu" and device != "cpu":
        return f"its kernels read CPU memory and the tensors are on {device!r}"
    if name == "cpu" and not _installed("numba"):
        return "numba is not installed (pip install numba)"
    if name != "triton":
        return None
    if not _installed("triton"):
        return "Triton is not installed (pip install 'seqlib[triton]')"
    if device == "cpu" and not interpreting():
        return (
            "Triton runs on CPU tensors only in its interpreter: set TRITON_INTERPRET=1 before "
            "the process starts"
        )
    if device not in ("cpu", "cuda"):
        return f"Triton kernels need CUDA or ROCm tensors, not {device!r}"
    return None


@functools.cache
def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module placed into sys.modules without a spec
        return False


@functools.cache
def _say_reference(device: str) -> None:
    logger.warning(
        "no kernels for device %r%s: the reference implementation, a loop over time, runs",
        device,
        " without numba (pip install numba)" if device == "cpu" else "",
    )
