# SPDX-License-Identifier: Apache-2.0
"""What the state-space models inside S4 and S5 have in common: step sizes, parameters, tags."""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers.ssm_init import inverse_exp, inverse_softplus, log_uniform
from .checks import check_positive
from .names import unknown_name

# Bounds that training does not cross: beyond them gradients are no longer numbers.
SHORTEST, LONGEST = 1e-6, 1e2
SLOWEST = -1e-4

DISCRETIZATIONS = ("zoh", "bilinear")
INVERSE = {"exp": inverse_exp, "softplus": inverse_softplus}

# Modes that n states of HiPPO become by the perturbation stored for n: pairs count once, real
# eigenvalues each. A search for other n might count differently on another machine.
PERTURBED = {2: 2, 8: 5, 16: 8, 32: 18, 64: 33, 128: 66}


def count_modes(init: str, n: int, size_name: str) -> int:
    """M, the modes that stand for n states of a system started by `init`.

    Raises:
        ValueError: an n that `init` is not there for.
    """
    if init == "ptd":
        if n not in PERTURBED:
            sizes = ", ".join(map(str, PERTURBED))
            raise ValueError(
                f"{size_name} must be one of {sizes} for init 'ptd', whose perturbations are "
                f"stored, got {n}; init 'ptd_rank1' takes any even number"
            )
        return PERTURBED[n]
    if n < 1 or n % 2:
        raise ValueError(f"{size_name} must be even, for conjugate pairs, got {n}")
    return n // 2


# What made each state: the parameters then, and what they were as the ops take them.
_continued: Any = WeakTensorKeyDictionary()


class SSMCore(nn.Module):
    """The parameters of a state-space model and the map from inputs to outputs.

    Complex numbers are pairs of reals in a last axis of 2. Everything about parameters is
    computed in float64: a rounded step size shifts the phase of a long memory.

    Args:
        dt_min, dt_max: bounds of the first step sizes, log-uniform between them.
        dt_transform: a step size is "exp" or "softplus" of its parameter.
        rate: factor of all step sizes, such as 0.5 for inputs sampled twice as finely.
        trained: learn the dynamics; otherwise they are buffers.
        ssm_lr: learning rate of the dynamics but the step sizes; that of the run if None.
        dt_lr: learning rate of the step sizes; that of the run if None.
    """

    keep_in_float32: ClassVar[tuple[str, ...]] = ()
    dynamics: ClassVar[tuple[str, ...]] = ()  # own parameters besides the step sizes `inv_dt`

    inv_dt: Tensor

    def __init__(
        self,
        *,
        dt_min: float,
        dt_max: float,
        dt_transform: str,
        rate: float,
        trained: bool,
        ssm_lr: float | None,
        dt_lr: float | None,
    ):
        super().__init__()
        check_positive(rate=rate, ssm_lr=ssm_lr, dt_lr=dt_lr)
        if not 0 < dt_min <= dt_max < math.inf:
            raise ValueError(
                f"dt_min and dt_max must satisfy 0 < dt_min <= dt_max, got {dt_min} and {dt_max}"
            )
        if dt_transform not in INVERSE:
            raise unknown_name("dt_transform", dt_transform, INVERSE)
        self.dt_min, self.dt_max, self.dt_transform = dt_min, dt_max, dt_transform
        self.rate, self.trained, self.ssm_lr, self.dt_lr = rate, trained, ssm_lr, dt_lr

    def make_own(self, **shapes: tuple[int, ...]) -> None:
        """Make parameters of these shapes; with values, unless a checkpoint will fill them."""
        for name, shape in shapes.items():
            value = torch.empty(shape)
            if self.trained or name not in (*self.dynamics, "inv_dt"):
                setattr(self, name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        if not self.inv_dt.is_meta:
            with torch.no_grad():
                for name, value in self.initial_values().items():
                    getattr(self, name).copy_(value)

    @abstractmethod
    def initial_values(self) -> dict[str, Tensor]:
        """Fresh values of this module's own parameters and buffers, by name."""

    @abstractmethod
    def continuous(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """A, B, C, dt and D as the ops take them; the weights B, C and D in `dtype`."""

    @abstractmethod
    def step(self, u: Tensor, given: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token [B, 1, H] from a state on, with what `continuous` gave."""

    @abstractmethod
    def run(
        self,
        u: Tensor,
        given: tuple[Tensor, ...],
        state: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """All tokens [B, T, H], with what `continuous` gave."""

    def forward(
        self,
        u: Tensor,
        state: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """As `Mixer.forward`, with one tensor for the state."""
        if state is not None and u.shape[1] == 1:
            given = self._given_after(state)
            y, after = self.step(u, given, state)
            if mask is not None:
                after = torch.where(mask.view(-1, *[1] * (state.ndim - 1)), after, state)
        else:
            given = self.continuous(torch.promote_types(u.dtype, torch.float32))
            y, after = self.run(u, given, state, mask, cu_seqlens, return_state)
        if after is not None and self._may_keep(after):
            _continued[after] = self._made_of(), given
        return y, after

    def _given_after(self, state: Tensor) -> tuple[Tensor, ...]:
        """`continuous`, the same tensors in each step of a generation: ops recognise them."""
        if self._may_keep(state):
            version, given = _continued.get(state, (None, ()))
            if version == self._made_of():
                return given
        return self.continuous(state.dtype)

    def _may_keep(self, state: Tensor) -> bool:
        """Without gradients, and where changes are counted: not for tensors of inference mode."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return not any(x.is_inference() for x in (state, *self.parameters(), *self.buffers()))

    def _made_of(self) -> list[tuple[int, int, int]]:
        own = (*self.parameters(), *self.buffers())
        return [(id(x), x._version, x.data_ptr()) for x in own]

    def fresh_inv_dt(self) -> Tensor:
        """First values of `inv_dt`."""
        dt = log_uniform(*self.inv_dt.shape, low=self.dt_min, high=self.dt_max)
        return INVERSE[self.dt_transform](dt)

    def dt(self) -> Tensor:
        """Step sizes, without `rate`."""
        inv_dt = self.inv_dt.double()
        dt = inv_dt.exp() if self.dt_transform == "exp" else F.softplus(inv_dt)
        return dt.clamp(SHORTEST, LONGEST)

    def optim_options(self) -> dict[str, dict[str, float | None]]:
        """No weight decay and learning rates of their own for the dynamics."""
        rates = dict.fromkeys(self.dynamics, self.ssm_lr) | {"inv_dt": self.dt_lr}
        return {name: {"lr": lr, "weight_decay": 0.0} for name, lr in rates.items()}


def pairs(x: Tensor) -> Tensor:
    """Complex [...] as pairs [..., 2]."""
    return torch.view_as_real(x.resolve_conj())


def complex_normal(*shape: int) -> Tensor:
    """Pairs [*shape, 2] with real and imaginary parts of variance 1/2."""
    return torch.randn(*shape, 2, dtype=torch.float64, device="cpu") * math.sqrt(0.5)
