# SPDX-License-Identifier: Apache-2.0
"""Separation of sound while it arrives."""

import copy

import torch
from torch import Tensor

from .frames import overlap_add
from .modeling import MossFormer2ForSpeechSeparation, State


class Streamer:
    """Separates mixtures by the piece, as one pass of a causal network over all of them does.

    A sample comes out K / 2 to K - 1 samples after it went in, K that of the encoder. What is
    kept between pieces does not grow.

    Args:
        network: causal, in evaluation mode.

    Raises:
        ValueError: a network of another kind.
    """

    def __init__(self, network: MossFormer2ForSpeechSeparation):
        if not network.config.causal:
            raise ValueError("causal must be True to separate sound while it arrives, got False")
        if network.training:
            raise ValueError("the network must be in evaluation mode; call eval() first")
        self.network = network
        self._restart()

    def _restart(self) -> None:
        self._state: State | None = None
        self._pending: Tensor | None = None  # [B, < K + K / 2] samples whose frames aren't whole
        self._tail: Tensor | None = None  # [B, C, K / 2] outputs that the next frame adds to

    @torch.inference_mode()
    def push(self, samples: Tensor) -> Tensor:
        """The next samples [B, n] of B mixtures, any n.

        Returns:
            [B, C, m] the samples of every source that no later input changes.

        Raises:
            ValueError: not [B, n], or another B than before.
        """
        if samples.dim() != 2:
            raise ValueError(f"samples must have shape (B, n), got {tuple(samples.shape)}")
        samples = samples.to(self.network.encoder.weight)
        if self._pending is not None:
            if len(samples) != len(self._pending):
                raise ValueError(
                    f"samples must have B={len(self._pending)} as before, got {len(samples)}"
                )
            samples = torch.cat((self._pending, samples), 1)
        size, speakers = self._sizes()
        hop = size // 2
        count = max((samples.shape[1] - size) // hop + 1, 0)
        self._pending = samples[:, count * hop :].clone()
        if count == 0:
            return samples.new_empty(len(samples), speakers, 0)
        encoded = self.network.encode(samples.unfold(-1, size, hop)[:, :count])
        outputs = self.network.model(
            input_features=encoded, state=self._state, return_state=True, return_dict=True
        )
        self._state = outputs.state
        decode = self.network.decode
        found = torch.stack(
            [
                overlap_add(decode(encoded, outputs.last_hidden_state, source))
                for source in range(speakers)
            ],
            1,
        )
        if self._tail is not None:
            found[..., :hop] += self._tail
        self._tail = found[..., count * hop :].clone()
        return found[..., : count * hop]

    def flush(self) -> Tensor:
        """The end of the mixtures: what is left [B, C, m] of the sources. A new one may begin.

        Raises:
            ValueError: fewer samples than a frame came in.
        """
        size, _ = self._sizes()
        if self._tail is None or self._pending is None:
            got = 0 if self._pending is None else self._pending.shape[1]
            raise ValueError(f"a mixture must have at least {size} samples, one frame, got {got}")
        missing = self._pending.shape[1] - self._tail.shape[2]
        rest = torch.nn.functional.pad(self._tail, (0, missing))
        self._restart()
        return rest

    def copy(self) -> "Streamer":
        """Another one that goes on from here, on its own; the network is shared."""
        other = copy.copy(self)
        if self._state is not None:
            other._state = {name: value.clone() for name, value in self._state.items()}
        return other

    def _sizes(self) -> tuple[int, int]:
        config = self.network.config
        return config.encoder_kernel_size, config.num_speakers
