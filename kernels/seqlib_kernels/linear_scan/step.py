# SPDX-License-Identifier: Apache-2.0
"""One step of the linear scan, for generation."""

from torch import Tensor

from .._core.checks import check_same, check_shape, check_state
from .._core.dtypes import state_dtype


def linear_scan_step(a: Tensor, b: Tensor, *, state: Tensor) -> tuple[Tensor, Tensor]:
    """Advance `linear_scan` by one token.

    Three elementwise operations in plain PyTorch: it runs on every device, differentiates, and
    leaves `state` as it was.

    Args:
        a: [B, 1, D] multipliers.
        b: [B, 1, D] inputs, of the dtype of `a`.
        state: [B, D] the state that `linear_scan` or the previous step returned.

    Returns:
        h [B, 1, D] in the dtype of `b`, and the new state [B, D] in the dtype of `state`. Where
        the dtypes agree they share memory.

    Raises:
        TypeError: an argument that is not a tensor or has an unsupported dtype.
        ValueError: shapes, dtypes or devices that disagree.
    """
    sizes = {"1": 1}
    check_shape("a", a, "B 1 D", sizes)
    check_shape("b", b, "B 1 D", sizes)
    check_same(("a", "b"), (a, b), complex_allowed=True)
    check_state("state", state, "B D", sizes, state_dtype(b.dtype), b)
    new_state = a[:, 0].to(state.dtype) * state + b[:, 0].to(state.dtype)
    return new_state.to(b.dtype)[:, None], new_state
