# SPDX-License-Identifier: Apache-2.0
"""One frame of causal joint attention: a handful of torch ops, no operator layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._core.checks import check_device, check_shape, check_state
from ..._core.dtypes import state_dtype
from .op import check_inputs, check_normalize
from .reference import rotated_heads


@dataclass(frozen=True)
class JointAttentionState:
    """What the frames so far leave to the next ones, batch first.

    Attributes:
        memory: [B, S, 2E] sum of Lk' Z over the groups that are complete; float32, or float64.
        z: [B, G, 2E] the frames of the current group, in the dtype of z; rows from
            position % G on are stale.
        keys: [B, G, 2, S] their quad_k and lin_k, in the dtype of `memory`.
        position: [B] int64, how many frames there were.
    """

    memory: Tensor
    z: Tensor
    keys: Tensor
    position: Tensor

    @classmethod
    def empty(
        cls, batch: int, E: int, S: int, group_size: int, like: Tensor
    ) -> "JointAttentionState":
        """The state before the first frame, on the device of `like` and for inputs of its dtype."""
        wide = state_dtype(like.dtype)
        return cls(
            memory=like.new_zeros((batch, S, 2 * E), dtype=wide),
            z=like.new_zeros((batch, group_size, 2 * E)),
            keys=like.new_zeros((batch, group_size, 2, S), dtype=wide),
            position=like.new_zeros((batch,), dtype=torch.int64),
        )


def joint_attention_step(
    z: Tensor,
    qk: Tensor,
    gamma: Tensor,
    beta: Tensor,
    freqs: Tensor,
    *,
    group_size: int,
    normalize: str = "frames",
    state: JointAttentionState,
) -> tuple[Tensor, JointAttentionState]:
    """Advance `state` by one frame: causal `joint_attention`, sequences at frames of their own.

    Args:
        z: [B, 1, 2E]; qk: [B, 1, S]; gamma, beta: [4, S]; freqs: [R/2]; the options as in
            `joint_attention`.
        state: what `JointAttentionState.empty` or this function returned; left unchanged.

    Returns:
        o: [B, 1, E] in the dtype of z.
        new_state: with position + 1.

    Cost: 2 (G S + 2 E G + 2 E S) operations and a copy of the current group; where a group is
    completed, 4 G E S more.

    Raises:
        ValueError, TypeError: as `joint_attention`, for any T other than 1, and for a state of
            another shape, dtype or device.
    """
    check_normalize(normalize, causal=True)
    check_inputs(z, qk, gamma, beta, freqs, group_size)
    if z.shape[1] != 1:
        raise ValueError(f"z must have shape (B, T, 2E) with T=1 in a step, got {tuple(z.shape)}")
    check_joint_state(state, z, qk, group_size)
    dtype, G = state_dtype(z.dtype), group_size
    position, of_group = state.position, torch.arange(group_size, device=z.device)
    slot = position % G
    quad_q, lin_q, quad_k, lin_k = rotated_heads(
        qk.to(dtype), gamma.to(dtype), beta.to(dtype), freqs.to(z.device), position[:, None]
    )
    here = (of_group == slot[:, None])[..., None]  # [B,G,1]
    z_group = torch.where(here, z, state.z)
    keys = torch.where(here[..., None], torch.stack((quad_k, lin_k), 2), state.keys)
    P = torch.relu(quad_q @ keys[:, :, 0].mT / G).square()  # [B,1,G]
    P = torch.where(of_group <= slot[:, None, None], P, 0)
    # stale rows are masked on both sides: they might hold infinities of another group
    wide = torch.where((of_group <= slot[:, None])[..., None], z_group, 0).to(dtype)
    frames = (position - slot).clamp(min=1) if normalize == "frames" else torch.full_like(slot, G)
    A = P @ wide + lin_q @ state.memory / frames[:, None, None]
    (A_v, A_u), (v, u) = A.chunk(2, -1), z.to(dtype).chunk(2, -1)
    o = A_u * v * torch.sigmoid(A_v * u)
    full, memory = slot == G - 1, state.memory
    if full.any():
        complete = memory + keys[:, :, 1].mT @ wide
        memory = torch.where(full[:, None, None], complete, memory)
    return o.to(z.dtype), JointAttentionState(memory, z_group, keys, position + 1)


def check_joint_state(state: JointAttentionState, z: Tensor, qk: Tensor, group_size: int) -> None:
    """Hold a state to what fits the inputs."""
    if not isinstance(state, JointAttentionState):
        raise TypeError(f"state must be a JointAttentionState, got {type(state).__name__}")
    sizes = {"B": z.shape[0], "2E": z.shape[2], "S": qk.shape[2], "G": group_size, "heads": 2}
    wide = state_dtype(z.dtype)
    check_state("state.memory", state.memory, "B S 2E", sizes, wide, z)
    check_state("state.z", state.z, "B G 2E", sizes, z.dtype, z)
    check_state("state.keys", state.keys, "B G heads S", sizes, wide, z)
    check_shape("state.position", state.position, "B", sizes)
    check_device("state.position", state.position, "the inputs", z)
