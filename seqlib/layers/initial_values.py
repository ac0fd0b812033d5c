# SPDX-License-Identifier: Apache-2.0
"""How a module says what its own parameters start from."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class InitialValues(Protocol):
    """A module with parameters or buffers that the usual initialisation does not know.

    Models built without memory and filled from a checkpoint call it for whatever the checkpoint
    does not hold, so the values may not depend on what `__init__` left behind.
    """

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values of this module's own parameters and buffers, by name."""
        ...
