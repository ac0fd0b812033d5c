# SPDX-License-Identifier: Apache-2.0
"""Registration of kernels as PyTorch operators, so that torch.compile sees them whole."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A process can define an operator once: copies of this file that travel with checkpoints have
# other names here.
NAMESPACE = "seqlib"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def define_op(schema: str, impl: Callable, fake: Callable) -> Callable:
    """Define `seqlib::<schema>`, run by `impl`, traced by `fake`; returns the callable operator.

    Gradients belong in an `autograd.Function` around the operator: that is the cheapest form
    that keeps the operator opaque to torch.compile and gives it shapes.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, impl, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def contiguous(*tensors: Tensor | None) -> tuple[Any, ...]:
    """The tensors as kernels read them; None stays None."""
    return tuple(None if x is None else x.contiguous() for x in tensors)
