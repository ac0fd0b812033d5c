# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation of sequences, over real tokens only."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """`(x - mean) / sqrt(var + eps) * weight + bias` per channel, over batch and time.

    In training mean and variance are those of the batch's real tokens, and running averages
    follow them; in evaluation these averages take their place, so that an output depends on its
    own sequence alone. A token that a mask leaves out counts nowhere; its own output means nothing.
    Computed in float32 at least and returned in the dtype of `x`.

    Of several processes each one normalises by its own rows, and the running averages that are
    saved are those of the first. A forward pass that is repeated for its gradient (checkpointed
    activations) does not count twice.

    Args:
        dim: size of the last axis.
        eps: added to the variance.
        momentum: weight of a new batch in the running averages: 1 - decay.

    Source: arXiv 1502.03167; the running variance is the unbiased one, as in torch.
    """

    no_weight_decay: ClassVar = ("weight", "bias")

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, *, momentum: float = 0.1):
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be above 0 and at most 1, got {momentum}")
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def initial_values(self) -> dict[str, Tensor]:
        """The identity, and averages of standard normal inputs."""
        dim = self.weight.shape[0]
        zeros, ones = torch.zeros(dim), torch.ones(dim)
        return {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Args: x: [B, T, dim]; mask: [B, T] bool, True at real tokens. Returns [B, T, dim].

        Raises:
            ValueError: in training, a batch of a single token: it has no variance.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        # copies, as torch keeps them for the gradient and the next call may come before that
        mean, var = (a.to(wide, copy=True) for a in (self.running_mean, self.running_var))
        y = x.to(wide)
        if not self.training or mask is None:
            momentum = 0.0 if self.training and _is_repeated() else self.momentum
            y = F.batch_norm(
                y.flatten(0, -2), mean, var, weight, bias, self.training, momentum, self.eps
            ).view_as(x)
            if self.training:
                self._keep(mean, var)
            return y.to(x.dtype)
        real = mask[..., None]
        count = real.sum()
        y = y.where(real, 0)
        batch_mean = y.sum((0, 1)) / count.clamp_min(1)
        centred = y - batch_mean
        squares = centred.where(real, 0).square().sum((0, 1))
        if not _is_repeated():
            # a batch of padding alone has no say
            momentum = self.momentum * (count > 0).to(wide)
            unbiased = squares.detach() / (count - 1).clamp_min(1)
            self._keep(mean.lerp(batch_mean.detach(), momentum), var.lerp(unbiased, momentum))
        scale = weight * torch.rsqrt(squares / count.clamp_min(1) + self.eps)
        return torch.addcmul(bias, centred, scale).to(x.dtype)

    def _keep(self, mean: Tensor, var: Tensor) -> None:
        with torch.no_grad():
            self.running_mean.copy_(mean)
            self.running_var.copy_(var)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"


def _is_repeated() -> bool:
    """Whether this forward pass runs inside a backward pass, which repeats one for its gradient."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
