# SPDX-License-Identifier: Apache-2.0
"""What a kernel family tells the tests and the benchmark about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from .launch import LaunchTable

Inputs = dict[str, Tensor]

# Largest error a kernel may make, in units of the dtype's eps, as `testing.rel_err` measures it.
TOL: Mapping[torch.dtype, float] = {
    torch.float64: 64,
    torch.float32: 16,
    torch.bfloat16: 2,
    torch.float16: 2,
    torch.complex128: 64,
    torch.complex64: 16,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of calling an op, such as "gated" or "reverse".

    Attributes:
        make: `make(B, T, dims, generator) -> inputs` draws float64 (or complex128) CPU tensors by
            argument name, without `initial_state`. The caller rounds them to the tested dtype.
        options: the keyword arguments that are not tensors. `reverse` in it means that time runs
            from the last step to the first.
        rows_per_token: how many rows of axis 1 an argument has per token, where that is not 1.
        constants: the arguments without axes of batch and time, such as A [D, N].
        checked: the arguments whose values are looked at on a CPU, so that a NaN is an error.
        stateless: nothing is handed over from one call to the next: there is no state, and an
            output may depend on every step of its sequence.
        small: sizes for exhaustive tests, such as {"H": 2, "K": 8, "V": 6}.
        odd: sizes that are neither powers of two nor equal, for edge tests.
        extremes: `name -> change` of inputs of make's form to boundary values (decay 0, 1, -1).
        extreme_bounds: the measured error bound in eps of an extreme to which the family's does
            not apply.
        dtypes: the dtypes to test; the first is the one of `make`.
    """

    name: str
    make: Callable[[int, int, Mapping[str, int], Generator], Inputs]
    options: Mapping[str, Any] = field(default_factory=dict)
    rows_per_token: Mapping[str, int] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()
    checked: frozenset[str] = frozenset()
    stateless: bool = False
    small: Mapping[str, int]
    odd: Mapping[str, int]
    extremes: Mapping[str, Callable[[Inputs], Inputs]] = field(default_factory=dict)
    extreme_bounds: Mapping[str, float] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
    )

    def tokens(self, inputs: Inputs, first: int, last: int) -> Inputs:
        """The inputs of tokens `first` to `last`, without the latter; constants whole."""
        cut = {}
        for name, x in inputs.items():
            rows = self.rows_per_token.get(name, 1)
            cut[name] = x if name in self.constants else x[:, rows * first : rows * last]
        return cut


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """One op: how to call it, what it costs, and where its edges lie.

    Attributes:
        op: the public function.
        reference: the loop over time, called with the same arguments.
        step: the one-token update, with the inputs of `op` at T = 1 and `state`; None if none.
        state_shape: `state_shape(N, dims)` of the state of N sequences; not asked where a case
            is stateless.
        complex_state: `complex_state(case name)`: whether the state is complex.
        tiles: lengths at which kernels change path; tests try each with one less and one more.
            Where launch rows name a tile of time, BT, those lengths take its place.
        launch: the table of Triton launch rows; tests run every row.
        launch_itemsize: the bytes of a number by the inputs' dtype, as `launch` counts them.
        refused_on_gpu: dtypes that the Triton kernels take in the interpreter only.
        exact_cut: by backend, the c for which a sequence cut after any multiple of c tokens, the
            state handed over, gives the result of the whole bit for bit. Missing: close only.
            "interpreter" where Triton's has smaller tiles than a GPU.
        spoils_chunks: the backends on which a NaN spoils the whole chunk it is in, earlier steps
            included, because zeros of a triangular matrix multiply it.
        tolerance: the measured error bounds in eps where the family's differ from `TOL`.
        flops: `flops(B, T, dims, options)` of one forward pass; the backward pass is counted by
            `backward_flops`.
        bytes: `bytes(B, T, dims, options, itemsize)` that a forward pass must at least move;
            `itemsize` is that of the inputs' dtype. The same for `backward_bytes`.
    """

    name: str
    op: Callable[..., tuple[Tensor, Tensor | None]]
    reference: Callable[..., tuple[Tensor, Tensor | None]]
    step: Callable[..., tuple[Tensor, Tensor]] | None
    cases: tuple[Case, ...]
    state_shape: Callable[[int, Mapping[str, int]], tuple[int, ...]]
    complex_state: Callable[[str], bool] = lambda _: False
    tiles: tuple[int, ...]
    launch: LaunchTable | None = None
    launch_itemsize: Callable[[torch.dtype], int] = lambda dtype: dtype.itemsize
    refused_on_gpu: frozenset[torch.dtype] = frozenset()
    exact_cut: Mapping[str, int] = field(default_factory=dict)
    spoils_chunks: frozenset[str] = frozenset()
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: TOL)
    flops: Callable[..., float]
    backward_flops: Callable[..., float]
    bytes: Callable[..., float]
    backward_bytes: Callable[..., float]


class Draw:
    """Random numbers for makers of inputs: float64 CPU tensors of any shape."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def normal(self, *shape: int) -> Tensor:
        """Over all reals, with mean 0 and variance 1."""
        return torch.randn(shape, dtype=torch.float64, generator=self._generator)

    def uniform(self, *shape: int) -> Tensor:
        """Over [0, 1)."""
        return torch.rand(shape, dtype=torch.float64, generator=self._generator)


def constant(name: str, value: float) -> Callable[[Inputs], Inputs]:
    """An extreme: every element of one input is `value`."""
    return lambda inputs: {**inputs, name: torch.full_like(inputs[name], value)}


def scaled(name: str, factor: float) -> Callable[[Inputs], Inputs]:
    """An extreme: one input multiplied."""
    return lambda inputs: {**inputs, name: factor * inputs[name]}
