# SPDX-License-Identifier: Apache-2.0
"""Checks of options that mixers share."""


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
