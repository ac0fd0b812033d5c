# SPDX-License-Identifier: Apache-2.0
"""Several frames of causal joint attention at once, from a state on: torch ops, group by group."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._core.dtypes import state_dtype
from .op import check_inputs, check_normalize
from .reference import rotated_heads
from .step import JointAttentionState, check_joint_state


def joint_attention_segment(
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
    """Advance `state` by T frames: T times `joint_attention_step`, as products of whole groups.

    Args:
        z: [B, T, 2E]; qk: [B, T, S]; gamma, beta: [4, S]; freqs: [R/2]; the options as in
            `joint_attention`.
        state: what `JointAttentionState.empty`, `joint_attention_step` or this function returned;
            left unchanged. Positions are read, which makes a GPU wait.

    Returns:
        o: [B, T, E] in the dtype of z.
        new_state: with position + T.

    Raises:
        ValueError, TypeError: as `joint_attention`, and for a state of another shape, dtype or
            device.
    """
    check_normalize(normalize, causal=True)
    check_inputs(z, qk, gamma, beta, freqs, group_size)
    check_joint_state(state, z, qk, group_size)
    options = (gamma, beta, freqs.to(z.device), group_size, normalize)
    positions = state.position.tolist()
    if len(set(positions)) <= 1:
        return _advance(z, qk, *options, state, positions[0] if positions else 0)
    rows = [
        _advance(z[b : b + 1], qk[b : b + 1], *options, _row(state, b), position)
        for b, position in enumerate(positions)
    ]
    states = zip(*((s.memory, s.z, s.keys, s.position) for _, s in rows), strict=True)
    return torch.cat([o for o, _ in rows]), JointAttentionState(*map(torch.cat, states))


def _row(state: JointAttentionState, b: int) -> JointAttentionState:
    tensors = (state.memory, state.z, state.keys, state.position)
    return JointAttentionState(*(x[b : b + 1] for x in tensors))


def _advance(
    z: Tensor,
    qk: Tensor,
    gamma: Tensor,
    beta: Tensor,
    freqs: Tensor,
    G: int,
    normalize: str,
    state: JointAttentionState,
    position: int,
) -> tuple[Tensor, JointAttentionState]:
    """`joint_attention_segment` of rows that all are at frame `position`."""
    dtype, T = state_dtype(z.dtype), z.shape[1]
    frames = position + torch.arange(T, device=z.device)
    heads = rotated_heads(qk.to(dtype), gamma.to(dtype), beta.to(dtype), freqs, frames)
    slot, memory, outputs = position % G, state.memory, [z[:, :0].to(dtype).chunk(2, -1)[0]]
    group, keys = state.z[:, :slot], state.keys[:, :slot]
    start = 0
    while start < T:
        here = slice(start, min(T, start + G - slot))
        quad_q, lin_q, quad_k, lin_k = (head[:, here] for head in heads)
        group = torch.cat((group, z[:, here]), 1)
        keys = torch.cat((keys, torch.stack((quad_k, lin_k), 2)), 1)
        P = torch.relu(quad_q @ keys[:, :, 0].mT / G).square().tril(slot)
        before = max(1, position + start - slot) if normalize == "frames" else G
        A = P @ group.to(dtype) + lin_q @ memory / before
        (A_v, A_u), (v, u) = A.chunk(2, -1), z[:, here].to(dtype).chunk(2, -1)
        outputs.append(A_u * v * torch.sigmoid(A_v * u))
        slot = group.shape[1]
        if slot == G:
            memory = memory + keys[:, :, 1].mT @ group.to(dtype)
            slot, group, keys = 0, group[:, :0], keys[:, :0]
        start = here.stop
    z_group = F.pad(group, (0, 0, 0, G - slot))
    keys = F.pad(keys, (0, 0, 0, 0, 0, G - slot))
    after = JointAttentionState(memory, z_group, keys, state.position + T)
    return torch.cat(outputs, 1).to(z.dtype), after
