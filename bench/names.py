# SPDX-License-Identifier: Apache-2.0
"""Names typed by a person: refused with the nearest known one."""

import difflib
from collections.abc import Sequence


def check_name(what: str, name: str, known: Sequence[str]) -> None:
    """Hold `name` to one of `known`.

    Raises:
        ValueError: it is none of them.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no {what} {name!r}{hint} Known: {', '.join(known)}")
