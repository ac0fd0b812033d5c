# SPDX-License-Identifier: Apache-2.0
"""Discretised parameters between the steps of a generation, whose parameters stay the same."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# By the first tensor: function, versions, options, the other tensors, and what came out.
_known: Any = WeakTensorKeyDictionary()

T = TypeVar("T")


def remembered(function: Callable[..., T], tensors: tuple[Tensor, ...], *options: Any) -> T:
    """`function(*tensors, *options)`, computed once as long as the same tensors are unchanged.

    Only where no gradient is asked for. A change in place is seen, but not one through `.data`.
    """
    if not _can_keep(tensors, options):
        return function(*tensors, *options)
    first, *others = tensors
    versions = [x._version for x in tensors]
    seen = _known.get(first)
    if (
        seen is not None
        and seen[:3] == (function, versions, options)
        and all(x is y for x, y in zip(seen[3], others, strict=True))
    ):
        return seen[4]
    result = function(*tensors, *options)
    _known[first] = function, versions, options, others, result
    return result


def _can_keep(tensors: tuple[Tensor, ...], options: tuple[Any, ...]) -> bool:
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return False
    if any(isinstance(option, Tensor) for option in options):
        return False
    asked = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not asked and not any(x.is_inference() for x in tensors)
