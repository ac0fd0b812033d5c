# SPDX-License-Identifier: Apache-2.0
"""The error for a name nobody knows."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """An error saying that there is no `kind` called `name`, and which one may be meant."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
    return ValueError(f"no {kind} {name!r}{hint}")
