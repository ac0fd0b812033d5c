# SPDX-License-Identifier: Apache-2.0
"""What a model may expect of a mixer."""

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn


class Mixer(nn.Module):
    """Mixes a sequence along time; built as `Mixer(hidden_size, **options)`.

    Attributes:
        layer_type: transformers' standard name for this kind of layer.
    """

    layer_type: ClassVar[str] = "linear_attention"

    @abstractmethod
    def __init__(self, hidden_size: int, **options: Any):
        super().__init__()

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        *,
        state: dict[str, Tensor] | None = None,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Mix x along time, from `state` on.

        Args:
            x: [B, T, D].
            state: what an earlier call returned, to go on from there: tensors with the batch
                first, whose names and meaning only the mixer knows.
            mask: [B, T] bool, True at real tokens. Any other token, wherever it stands, is a
                step that changes nothing; its own output means nothing.
            cu_seqlens: [N+1] boundaries of N sequences packed into B = 1, which don't see each
                other; goes with neither a state nor a mask.
            return_state: also return the state after the last token.

        Returns:
            y: [B, T, D].
            state: a new dict, or None.
        """


def check_call(
    state: dict[str, Tensor] | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    return_state: bool,
) -> None:
    """Hold the arguments of `Mixer.forward` to what it documents."""
    if cu_seqlens is not None and (state is not None or mask is not None or return_state):
        raise ValueError(
            "cu_seqlens goes with neither state, mask nor return_state: packed sequences start "
            "from nothing, hold no padding and are not continued"
        )
