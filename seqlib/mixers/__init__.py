# SPDX-License-Identifier: Apache-2.0
"""Sequence mixers by name. A new family adds its file and one line here."""

from .base import Mixer
from .delta_net import DeltaNet
from .delta_product import DeltaProduct
from .fsmn import Fsmn
from .full_attention import FullAttention
from .gated_delta_net import GatedDeltaNet
from .mamba import Mamba
from .mamba2 import Mamba2
from .names import unknown_name
from .s4 import S4
from .s5 import S5

MIXERS: dict[str, type[Mixer]] = {
    "delta_net": DeltaNet,
    "gated_delta_net": GatedDeltaNet,
    "delta_product": DeltaProduct,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "s4": S4,
    "s5": S5,
    "fsmn": Fsmn,
    "full_attention": FullAttention,
}


def mixer_class(name: str) -> type[Mixer]:
    """The class of the mixer called `name`.

    Raises:
        ValueError: no such mixer; the message names the nearest one.
    """
    if name not in MIXERS:
        raise unknown_name("mixer", name, MIXERS)
    return MIXERS[name]
