# SPDX-License-Identifier: Apache-2.0
"""Checks of options and arguments that mixers share."""

from torch import Tensor


def check_positive(**options: float | None) -> None:
    """Hold every option that is given to a value above zero."""
    for name, value in options.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def whole(name: str, value: float, meaning: str) -> int:
    """`value` as an int, which it must be: `meaning` says how it came about."""
    if value != int(value) or value < 1:
        raise ValueError(f"{name} must be a whole number above zero, got {meaning} = {value:g}")
    return int(value)


def check_call(
    state: dict[str, Tensor] | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    return_state: bool,
) -> None:
    """Refuse packed sequences beside a state or a mask."""
    if cu_seqlens is not None and (state is not None or mask is not None or return_state):
        raise ValueError(
            "cu_seqlens goes with neither state, mask nor return_state: packed sequences start "
            "from nothing, hold no padding and are not continued"
        )
