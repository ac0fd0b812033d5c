# SPDX-License-Identifier: Apache-2.0
"""States of modules inside modules, in one dictionary of tensors."""

from torch import Tensor


def check_state(causal: bool, state: object, return_state: bool) -> None:
    """Refuse states where outputs depend on later frames."""
    if not causal and (state is not None or return_state):
        raise ValueError(
            "state and return_state must be left out with causal=False: outputs that depend on "
            "later frames can't be continued"
        )


def inner(name: str, state: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """The state of the part `name`."""
    if state is None:
        return None
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def outer(name: str, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The state of the part `name` among those of others; nothing if there is none."""
    return {f"{name}.{k}": v for k, v in (state or {}).items()}
