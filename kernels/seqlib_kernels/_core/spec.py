# SPDX-License-Identifier: Apache-2.0
"""What a kernel family tells the tests and the benchmark about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor

Inputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of calling an op, such as "gated" or "reverse".

    Attributes:
        make: `make(B, T, dims, generator) -> inputs` draws float64 (or complex128) CPU tensors by
            argument name, without `initial_state`. The caller casts them.
        options: the keyword arguments that are not tensors.
        rows_per_token: how many rows of axis 1 an argument has per token, where that is not 1.
        small: sizes for exhaustive tests, such as {"H": 2, "K": 8, "V": 6}.
        odd: sizes that are neither powers of two nor equal, for edge tests.
        extremes: `name -> inputs of make's form` maker for boundary values (decay 0, 1, -1, ...).
    """

    name: str
    make: Callable[[int, int, Mapping[str, int], Generator], Inputs]
    options: Mapping[str, Any] = field(default_factory=dict)
    rows_per_token: Mapping[str, int] = field(default_factory=dict)
    small: Mapping[str, int]
    odd: Mapping[str, int]
    extremes: Mapping[str, Callable[[Inputs], Inputs]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """One op: how to call it, what it costs, and where its edges lie.

    Attributes:
        op: the public function.
        reference: the loop over time, called with the same arguments.
        step: the one-token update, with the inputs of `op` at T = 1 and `state`; or None.
        state_shape: `state_shape(N, dims)` of the state of N sequences.
        complex_state: `complex_state(case name)`: whether the state is complex.
        tiles: lengths at which kernels change path; tests try each with one less and one more.
        flops: `flops(B, T, dims, options)` of one forward pass; the backward pass is counted by
            `backward_flops`.
        bytes: `bytes(B, T, dims, options, itemsize)` that a forward pass must at least move.
    """

    name: str
    op: Callable[..., tuple[Tensor, Tensor | None]]
    reference: Callable[..., tuple[Tensor, Tensor | None]]
    step: Callable[..., tuple[Tensor, Tensor]] | None
    cases: tuple[Case, ...]
    state_shape: Callable[[int, Mapping[str, int]], tuple[int, ...]]
    complex_state: Callable[[str], bool] = lambda _: False
    tiles: tuple[int, ...]
    flops: Callable[..., float]
    backward_flops: Callable[..., float]
    bytes: Callable[..., float]
    backward_bytes: Callable[..., float]
