# SPDX-License-Identifier: Apache-2.0
"""Numerical checks of every family, for the test suite and for users on a new device.

    python -c "from seqlib_kernels.testing import check_kernels; print(check_kernels('cuda'))"

The oracle is the reference, a plain loop over time, run in float64 on the CPU on the rounded
inputs that the kernel got. Errors are counted in units of the dtype's eps.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ._core.backend import resolve
from ._core.dtypes import state_dtype
from ._core.launch import Launch, device_arch
from ._core.spec import TOL, Case, OpSpec
from .delta_rule.spec import SPEC as DELTA_RULE
from .fsmn.attention.spec import SPEC as JOINT_ATTENTION
from .fsmn.dense.spec import SPEC as DENSE_FSMN_MEMORY
from .fsmn.memory.spec import SPEC as FSMN_MEMORY
from .fsmn.norm.spec import SPEC as SEQUENCE_NORM
from .linear_scan.spec import SPEC as LINEAR_SCAN
from .selective_scan.spec import SPEC as SELECTIVE_SCAN
from .ssd.spec import SPEC as SSD
from .ssm.diagonal.spec import SPEC as DIAGONAL_SSM
from .ssm.mimo.spec import SPEC as MIMO_SSM

SPECS: tuple[OpSpec, ...] = (
    LINEAR_SCAN,
    DELTA_RULE,
    SELECTIVE_SCAN,
    SSD,
    DIAGONAL_SSM,
    MIMO_SSM,
    JOINT_ATTENTION,
    FSMN_MEMORY,
    DENSE_FSMN_MEMORY,
    SEQUENCE_NORM,
)

__all__ = [
    "SPECS",
    "TOL",
    "Check",
    "Problem",
    "Report",
    "check_kernels",
    "errors",
    "list_checks",
    "rel_err",
    "solve",
]


def rel_err(got: Tensor, want: Tensor, *, time: int | None = 1) -> float:
    """RMS error relative to the RMS of the whole of `want`; the worst step of axis `time`.

    With `time=None`, for states, the error is that of the whole. A NaN on one side only is an
    infinite error; equal NaNs and infinities are no error. A GPU compares what lies on it.
    """
    wide = torch.complex128 if want.is_complex() else torch.float64
    where = want.device if want.is_cuda else "cpu"  # other devices may lack float64
    got, want = got.detach().to(where, wide), want.detach().to(where, wide)
    if got.shape != want.shape:
        raise ValueError(f"shapes must agree, got {tuple(got.shape)} and {tuple(want.shape)}")
    if got.numel() == 0:
        return 0.0
    same = (got == want) | (got.isnan() & want.isnan())
    difference = torch.where(same, 0, got - want).abs().nan_to_num(torch.inf, torch.inf)
    size = torch.where(want.isfinite(), want, 0).abs().square().mean().sqrt()
    dims = [d for d in range(got.ndim) if d != time]
    error = difference.square().mean(dims).sqrt() if dims else difference
    return (error / size.clamp_min(1e-30)).max().item()


@dataclass(frozen=True)
class Problem:
    """One call of an op, with the gradients of its outputs: everything `solve` needs."""

    spec: OpSpec
    case: Case
    dims: Mapping[str, int]
    inputs: Mapping[str, Tensor]
    initial_state: Tensor | None
    cu_seqlens: Tensor | None
    output_grad: Tensor
    state_grad: Tensor | None

    @classmethod
    def draw(
        cls,
        spec: OpSpec,
        case: Case,
        B: int,
        T: int,
        dims: Mapping[str, int] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        lengths: Iterable[int] | None = None,
        initial_state: bool = True,
        change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        seed: int = 0,
    ) -> "Problem":
        """Draw a problem from the case's generator, rounded to `dtype`.

        `lengths` packs sequences of these lengths, whose sum is T, into a batch of one; `change`
        is applied to the float64 inputs, such as one of the case's extremes.
        """
        generator = torch.Generator().manual_seed(seed)
        dims = dict(case.small if dims is None else dims)
        dtype = case.dtypes[0] if dtype is None else dtype
        inputs = case.make(B, T, dims, generator)
        inputs = {n: x.to(dtype) for n, x in (change(inputs) if change else inputs).items()}

        N, cu_seqlens = B, None
        if lengths is not None:
            bounds = torch.tensor([0, *lengths]).cumsum(0)
            N, cu_seqlens = len(bounds) - 1, bounds.to(device)
        complex_state = spec.complex_state(case.name)
        wide = torch.complex128 if complex_state else torch.float64

        def normal(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
            return torch.randn(tuple(shape), dtype=wide, generator=generator).to(dtype).to(device)

        state = None if case.stateless else spec.state_shape(N, dims)
        kept = state_dtype(dtype)
        output = _output_shape(spec, case, B, T, dims, inputs)
        return cls(
            spec,
            case,
            dims,
            {n: x.to(device) for n, x in inputs.items()},
            normal(state, kept) if state is not None and initial_state else None,
            cu_seqlens,
            normal(output, dtype),
            None if state is None else normal(state, kept),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the inputs."""
        return self.output_grad.dtype

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> "Problem":
        """The same numbers in another floating dtype, states and gradients included."""

        def cast(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, dtype)

        return replace(
            self,
            inputs={n: x.to(device, dtype) for n, x in self.inputs.items()},
            initial_state=cast(self.initial_state),
            cu_seqlens=None if self.cu_seqlens is None else self.cu_seqlens.to(device),
            output_grad=cast(self.output_grad),
            state_grad=cast(self.state_grad),
        )


def _output_shape(
    spec: OpSpec, case: Case, B: int, T: int, dims: Mapping[str, int], inputs: dict[str, Tensor]
) -> torch.Size:
    """The shape of the output, from one token of the definition."""
    if T == 0:
        inputs = case.make(1, 1, dims, torch.Generator())
    output, _ = spec.reference(**case.tokens(inputs, 0, 1), **case.options)
    return torch.Size((B, T, *output.shape[2:]))


def solve(function: Callable[..., Any], problem: Problem, **options: Any) -> dict[str, Tensor]:
    """Outputs and all gradients of `function` (the op or the reference) on a problem.

    Every output, the final state included, is in the loss.
    """
    inputs = {n: x.detach().requires_grad_() for n, x in problem.inputs.items()}
    h0 = problem.initial_state
    state = {} if h0 is None else {"initial_state": h0.detach().requires_grad_()}
    packed = {} if problem.cu_seqlens is None else {"cu_seqlens": problem.cu_seqlens}
    asked = {} if problem.case.stateless else {"return_final_state": True}
    output, final_state = function(
        **inputs, **state, **packed, **problem.case.options, **asked, **options
    )
    leaves = {**inputs, **state}
    result = {"output": output, "final_state": final_state}
    if problem.case.stateless:
        del result["final_state"]
    output_grads = (problem.output_grad, problem.state_grad)[: len(result)]
    grads = torch.autograd.grad(
        tuple(result.values()), tuple(leaves.values()), output_grads, materialize_grads=True
    )
    result |= {f"d_{n}": g for n, g in zip(leaves, grads, strict=True)}
    return {n: x.detach() for n, x in result.items()}


def oracle(problem: Problem) -> dict[str, Tensor]:
    """What the reference gives in float64 on the CPU for the problem's rounded numbers."""
    wide = torch.complex128 if problem.spec.complex_state(problem.case.name) else torch.float64
    return solve(problem.spec.reference, problem.to(wide))


def errors(
    got: Mapping[str, Tensor], want: Mapping[str, Tensor], problem: Problem
) -> dict[str, float]:
    """The error of every result of `problem` in units of the eps of its dtype."""
    eps = torch.finfo(problem.dtype).eps
    timeless = {"final_state", "d_initial_state", *(f"d_{n}" for n in problem.case.constants)}
    return {n: rel_err(got[n], want[n], time=None if n in timeless else 1) / eps for n in want}


@dataclass(frozen=True)
class Report:
    """What `check_kernels` measured: one row per family, case, launch row and dtype."""

    rows: tuple[tuple[str, str, str, str, float, float], ...]

    @property
    def failures(self) -> tuple[tuple[str, str, str, str, float, float], ...]:
        """The rows whose error exceeds their bound (or is NaN)."""
        return tuple(row for row in self.rows if not row[4] <= row[5])

    def __str__(self) -> str:
        head = ("op", "case", "launch", "dtype", "error/eps", "bound")
        table = [head, *((*r[:4], f"{r[4]:.2f}", f"{r[5]:.0f}") for r in self.rows)]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        return "\n".join(
            "  ".join(w.ljust(n) for w, n in zip(r, widths, strict=True)) for r in table
        )


def check_kernels(
    device: torch.device | str | None = None,
    *,
    backend: str | None = None,
    specs: Iterable[OpSpec] | None = None,
    length: int | None = None,
) -> Report:
    """Compare every kernel with the float64 reference: each case, launch row and dtype.

    Outputs, final states and all gradients are compared, for a batch with an initial state and
    for packed sequences. One call takes seconds on a GPU, most of it compilation.

    Args:
        device: where the kernels run; the GPU if there is one, else the CPU.
        backend: as in the ops.
        specs: the families to check, all by default.
        length: the sequence length; by default a little over the family's longest tile.

    Returns:
        A report that prints as a table, the worst error of each row beside its bound.

    Raises:
        AssertionError: an error beyond its bound, with the table.
        BackendUnavailableError: the backend can't run on `device`.
    """
    report = Report(
        tuple(
            check.row(check.error())
            for check in list_checks(device, backend=backend, specs=specs, length=length)
        )
    )
    if report.failures:
        failed = Report(report.failures)
        raise AssertionError(f"{len(failed.rows)} of {len(report.rows)} checks failed\n{failed}")
    return report


@dataclass(frozen=True, kw_only=True)
class Check:
    """One case of a family in one dtype, with one launch row: a line of the report."""

    spec: OpSpec
    case: Case
    dtype: torch.dtype
    launch: Launch | None
    backend: str
    device: torch.device
    length: int

    def error(self) -> float:
        """The worst error in eps, of a batch with an initial state and of packed sequences."""
        T = self.length
        packed = (T // 3, 0, T - T // 3)
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        problems = (
            Problem.draw(self.spec, self.case, 2, T, self.case.odd, **options),
            Problem.draw(self.spec, self.case, 1, T, self.case.odd, lengths=packed, **options),
        )
        with launch_forced(self.spec, self.launch):
            return max(
                max(errors(solve(self.spec.op, p, backend=self.backend), oracle(p), p).values())
                for p in problems
            )

    def row(self, error: float) -> tuple[str, str, str, str, float, float]:
        """op, case, launch row, dtype, `error` and its bound."""
        launch = f"{self.backend} {'-' if self.launch is None else _label(self.launch)}"
        kind = str(self.dtype).removeprefix("torch.")
        bound = self.spec.tolerance[self.dtype]
        return self.spec.name, self.case.name, launch, kind, error, bound


def list_checks(
    device: torch.device | str | None = None,
    *,
    backend: str | None = None,
    specs: Iterable[OpSpec] | None = None,
    length: int | None = None,
) -> Iterator[Check]:
    """What `check_kernels` checks, for callers that run the checks one by one."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for spec in SPECS if specs is None else specs:
        name = resolve(torch.empty(0, device=device), backend)
        T = length or 2 * max(tile_lengths(spec, name, device)) + 3
        for case in spec.cases:
            for dtype in case.dtypes:
                if device.type != "cpu" and dtype in spec.refused_on_gpu:
                    continue
                for launch in launches(spec, name, device, dtype):
                    yield Check(
                        spec=spec,
                        case=case,
                        dtype=dtype,
                        launch=launch,
                        backend=name,
                        device=device,
                        length=T,
                    )


def launches(
    spec: OpSpec, backend: str, device: torch.device, dtype: torch.dtype
) -> tuple[Launch | None, ...]:
    """The launch rows that `dtype` may be given on `device`; one None where there are none."""
    if backend != "triton" or spec.launch is None:
        return (None,)
    return spec.launch.serving(device_arch(device), spec.launch_itemsize(dtype))


def tile_lengths(spec: OpSpec, backend: str, device: torch.device | str) -> tuple[int, ...]:
    """The lengths at which the family's kernels change path on `device`."""
    if backend != "triton" or spec.launch is None:
        return spec.tiles
    rows = spec.launch.rows_of(device_arch(torch.device(device)))
    named = {row.tiles["BT"] for row in rows if "BT" in row.tiles}
    return tuple(sorted(named)) or spec.tiles


def launch_forced(spec: OpSpec, launch: Launch | None) -> contextlib.AbstractContextManager[None]:
    """Run the family's kernels with one launch row inside the block."""
    if launch is None or spec.launch is None:
        return contextlib.nullcontext()
    return spec.launch.forced(launch)


def _label(launch: Launch) -> str:
    tiles = " ".join(f"{n}={v}" for n, v in launch.tiles.items())
    return f"{launch.arch} {tiles} warps={launch.num_warps}"
