# SPDX-License-Identifier: Apache-2.0
"""Checks of options that mixers share."""

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints


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


def check_kinds(build: Callable, options: Mapping[str, Any], owner: str) -> None:
    """Hold options from files to the annotations of `build`: "false" would count as true.

    Raises:
        TypeError: a value of another kind, where an int is also a float, but no bool is a number.
    """
    hints = get_type_hints(build)
    for name, value in options.items():
        kinds = get_args(hints[name]) or (hints[name],)
        if float in kinds:
            kinds = (*kinds, int)
        if type(value) not in kinds:
            wanted = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
            raise TypeError(f"{name} of {owner} must be {wanted}, got {value!r}")
