# SPDX-License-Identifier: Apache-2.0
"""The cache of a model made of mixers: one state per block, inside transformers' container."""

from collections.abc import Callable

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class StateLayer(CacheLayerMixin):
    """The state of one block, a dict of tensors with the batch first, and how much it has seen.

    What the tensors mean only the block's mixer knows: a recurrence keeps a fixed number of
    bytes, attention its growing keys and values.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def write(self, state: dict[str, Tensor], tokens: int) -> None:
        """Replace the state by the one after `tokens` more tokens."""
        self.state, self.seen, self.is_initialized = state, self.seen + tokens, True

    def reset(self) -> None:
        """Forget everything."""
        self.state: dict[str, Tensor] | None = None
        self.seen = 0
        self.is_initialized = False

    def get_seq_length(self) -> int:
        return self.seen

    @property
    def batch_size(self) -> int:
        """Rows of the state; missing before there is one, as transformers expects."""
        if self.state is None:
            raise AttributeError("batch_size is unknown before the first call")
        return next(iter(self.state.values())).shape[0]

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._each(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda x: x[indices.to(x.device)])

    def offload(self) -> None:
        raise NotImplementedError(_NOT_MOVED)

    def prefetch(self) -> None:
        raise NotImplementedError(_NOT_MOVED)

    def crop(self, tokens_to_remove: int) -> None:
        """Only `crop(0)` is possible: a recurrence keeps no past to return to."""
        if tokens_to_remove != 0:
            raise ValueError(
                f"a recurrent state can't be taken back by {abs(tokens_to_remove)} tokens; keep a "
                "copy.deepcopy of the cache from before them"
            )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError(_NOT_KEYS)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        raise NotImplementedError(_NOT_KEYS)

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = {name: change(x) for name, x in self.state.items()}


_NOT_MOVED = "a state stays where its block is; build_cache makes no offloaded caches"
_NOT_KEYS = "this layer keeps a mixer's state, not keys and values; use write(state, tokens)"


def build_cache(num_layers: int) -> Cache:
    """An empty cache for a model of `num_layers` blocks."""
    return Cache(layers=[StateLayer() for _ in range(num_layers)])


def check_cache(cache: object, num_layers: int, batch_size: int) -> None:
    """Hold `past_key_values` to what `build_cache` makes.

    Raises:
        TypeError: another kind of cache. ValueError: the cache of a model of other depth, or of
            another number of rows.
    """
    layers = getattr(cache, "layers", None)
    if not layers or not all(isinstance(layer, StateLayer) for layer in layers):
        raise TypeError(
            "past_key_values must come from a call of this model or from "
            f"seqlib.models.build_cache, got {type(cache).__name__} of "
            f"{[type(layer).__name__ for layer in layers or []]}"
        )
    if len(layers) != num_layers:
        raise ValueError(
            f"past_key_values must have one layer per block, {num_layers}, got {len(layers)}"
        )
    rows = getattr(layers[0], "batch_size", batch_size)
    if rows != batch_size:
        raise ValueError(f"past_key_values must hold the states of B={batch_size} rows, got {rows}")
