# SPDX-License-Identifier: Apache-2.0
"""Groups of an optimizer for parameters that want their own learning rate or weight decay.

What a parameter wants is in its tag (`seqlib.layers.optim`). Groups are made by tags and never by
the numbers a run happens to use, so that a checkpoint fits a run with other numbers.
"""

from typing import Any

from torch import nn
from torch.optim import Optimizer

# optimizers that step while gradients come in, with one rate for all
_ONE_RATE = ("lomo", "layerwise")


def tag_of(parameter: nn.Parameter) -> dict[str, float]:
    """What `set_optim` left on a parameter."""
    return getattr(parameter, "_optim", {})


def split_groups(optimizer: Optimizer) -> None:
    """Give every tag of a fresh optimizer its own group, behind those that are there.

    A new group has the options of the one it comes from, but for what the tag says, and the peak
    of its learning rate as "own_lr".
    """
    own: dict[tuple[int, float | None, float | None], dict[str, Any]] = {}
    for i, group in enumerate(list(optimizer.param_groups)):
        kept = []
        for parameter in group["params"]:
            tag = tag_of(parameter)
            lr, decay = tag.get("lr"), tag.get("weight_decay")
            if decay == 0 and group.get("weight_decay") == 0:
                decay = None
            if lr is None and decay is None:
                kept.append(parameter)
                continue
            options = {"lr": lr, "own_lr": lr, "weight_decay": decay}
            given = {name: value for name, value in options.items() if value is not None}
            made = own.setdefault((i, lr, decay), {**group, **given, "params": []})
            made["params"].append(parameter)
        group["params"] = kept
    optimizer.param_groups.extend(own.values())


def check_optimizer(name: str, model: nn.Module) -> None:
    """Refuse an optimizer that could not follow the tags of `model`.

    Raises:
        ValueError: it has one learning rate for all.
    """
    if any(word in name for word in _ONE_RATE):
        rates = sorted({tag_of(p)["lr"] for p in model.parameters() if "lr" in tag_of(p)})
        if rates:
            raise ValueError(
                f"optim must not be {name!r}, which has one learning rate for all: parameters of "
                f"this model have their own, {rates} (set ssm_lr and dt_lr of its mixers to null)"
            )


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """For a log: the present rate of each group with its own, named by the peak of it."""
    return {
        f"learning_rate/{group['own_lr']:g}": float(group["lr"])
        for group in optimizer.param_groups
        if "own_lr" in group
    }
