# SPDX-License-Identifier: Apache-2.0
"""Sequence mixers by name. A new family adds its file and one line here.

Every mixer is built as `MIXERS[name](hidden_size, **options)` and called as

    forward(x [B, T, D], *, state=None, mask=None, cu_seqlens=None, return_state=False)
        -> (y [B, T, D], state or None)

A state is a dict of tensors with the batch first, whose names only the mixer knows; handing it
back continues the sequence. `mask` [B, T] (bool, True at real tokens) makes every other token a
step that changes nothing, wherever it stands. `cu_seqlens` [N+1] says that B = 1 and x holds N
sequences in a row, which don't see each other; it goes with neither state nor mask.
"""

from torch import nn

from .delta_net import DeltaNet
from .delta_product import DeltaProduct
from .full_attention import FullAttention
from .gated_delta_net import GatedDeltaNet
from .names import unknown_name

MIXERS: dict[str, type[nn.Module]] = {
    "delta_net": DeltaNet,
    "gated_delta_net": GatedDeltaNet,
    "delta_product": DeltaProduct,
    "full_attention": FullAttention,
}


def mixer_class(name: str) -> type[nn.Module]:
    """The class of the mixer called `name`.

    Raises:
        ValueError: no such mixer; the message names the nearest one.
    """
    if name not in MIXERS:
        raise unknown_name("mixer", name, MIXERS)
    return MIXERS[name]
