# SPDX-License-Identifier: Apache-2.0
"""How a module says that some of its parameters want their own learning rate or weight decay.

A module names them in a class attribute `no_weight_decay`, or gives more in a method
`optim_options`; `tag_parameters` writes both on the parameters, where whoever builds an optimizer
finds them. Copies and loaded models hold new parameters without tags, so tag again before use.
"""

from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class OptimOptions(Protocol):
    """A module with options for the optimizer."""

    def optim_options(self) -> dict[str, dict[str, float | None]]:
        """For names of this module's own parameters, the arguments of `set_optim`."""
        ...


def set_optim(
    parameter: nn.Parameter, *, lr: float | None = None, weight_decay: float | None = None
) -> None:
    """Tag a parameter: `parameter._optim` holds what is given here, the rest is as for all.

    Args:
        lr: its learning rate at the top of the schedule, in place of the run's.
        weight_decay: its weight decay, in place of the run's.

    Raises:
        ValueError: a negative value, or one that is not a number.
    """
    options = {"lr": lr, "weight_decay": weight_decay}
    for name, value in options.items():
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, got {value}")
    tagged: Any = parameter
    tagged._optim = {name: float(v) for name, v in options.items() if v is not None}


def tag_parameters(model: nn.Module) -> None:
    """Tag every parameter of `model` for which its module names options, unless it has a tag."""
    for module in model.modules():
        options: dict[str, dict[str, float | None]] = {
            name: {"weight_decay": 0.0} for name in getattr(module, "no_weight_decay", ())
        }
        if isinstance(module, OptimOptions):
            options |= module.optim_options()
        for name, chosen in options.items():
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter) and not hasattr(parameter, "_optim"):
                set_optim(parameter, **chosen)
