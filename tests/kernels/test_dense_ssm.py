# SPDX-License-Identifier: Apache-2.0
"""The dense state-space model: published numbers, chunks against steps, gradients, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seqlib_kernels.ssm.dense import CHUNK, dense_ssm, dense_ssm_step
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "ssm" / "lssl_n8.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(x) for name, x in arrays.items()}


def make(N: int, T: int, K: int | None = None, dtype=torch.float64) -> dict[str, Tensor]:
    """LegS, as it is trained: step sizes from 0.001 to 0.1."""
    generator = torch.Generator().manual_seed(0)
    i = torch.arange(N, dtype=dtype)
    B, H = 2, 3
    root = (2 * i + 1).sqrt()
    shape = (H,) if K is None else (K, H)
    return {
        "u": torch.randn(B, T, H, dtype=dtype, generator=generator),
        "A": -torch.outer(root, root).tril(-1) - torch.diag(i + 1),
        "B": root,
        "C": torch.randn(*shape, N, dtype=dtype, generator=generator),
        "dt": torch.logspace(-3, -1, H, dtype=dtype),
        "D": torch.randn(*shape, dtype=dtype, generator=generator),
    }


def by_steps(u: Tensor, *parameters: Tensor, state: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(u.shape[1]):
        y, state = dense_ssm_step(u[:, t : t + 1], *parameters, alpha=alpha, state=state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def test_published_outputs_kernel_and_state(golden):
    """Measured: 3e-16 of the largest value."""
    g = golden
    parameters = g["A"], g["b"], g["C"], g["dt"]
    alpha = g["alpha"].item()
    u = g["u"].transpose(1, 2)
    y, state = dense_ssm(u, *parameters, g["D"], alpha=alpha, return_final_state=True)
    torch.testing.assert_close(y, g["y"].transpose(1, 2), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, g["state_final"], rtol=1e-10, atol=1e-12)
    impulse = torch.zeros(1, g["K"].shape[1], u.shape[2], dtype=torch.float64)
    impulse[:, 0] = 1
    kernel, _ = dense_ssm(impulse, *parameters, alpha=alpha)
    torch.testing.assert_close(kernel[0].T, g["K"], rtol=1e-10, atol=1e-12)


# of the largest output or state; measured: 2e-14 and 2e-7
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("K", [None, 2])
@pytest.mark.parametrize("T", [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_chunks_equal_steps(T, K, alpha, dtype, bound):
    tensors = make(8, T, K)
    state = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    want = by_steps(*tensors.values(), state=state, alpha=alpha)
    got = dense_ssm(
        *(x.to(dtype) for x in tensors.values()),
        alpha=alpha,
        initial_state=state.to(dtype),
        return_final_state=True,
    )
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert one.dtype == dtype
        assert (one - other).abs().max() < bound * other.abs().max()


def test_final_states_of_rows_of_different_lengths():
    tensors = make(4, 2 * CHUNK + 3)
    state = torch.randn(2, 3, 4, dtype=torch.float64)
    for lengths in ([0, 1], [CHUNK, 2 * CHUNK + 3], [CHUNK + 1, 2 * CHUNK]):
        _, got = dense_ssm(
            **tensors,
            initial_state=state,
            return_final_state=True,
            lengths=torch.tensor(lengths),
        )
        assert got is not None
        for row, length in enumerate(lengths):
            one = {**tensors, "u": tensors["u"][row : row + 1, :length]}
            _, want = dense_ssm(**one, initial_state=state[row : row + 1], return_final_state=True)
            torch.testing.assert_close(got[row : row + 1], want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_sequence_of_64_states_does_not_drift(dtype):
    """4096 tokens. Measured, of the largest output: float32 9e-7, bfloat16 2.3e-3."""
    tensors = make(64, 4096)
    u = tensors["u"].to(dtype)
    want, _ = dense_ssm(**{**tensors, "u": u.double()})
    got, _ = dense_ssm(**{k: x.float() for k, x in tensors.items()} | {"u": u})
    assert got.dtype == dtype
    error = (got.double() - want).abs().max() / want.abs().max()
    assert error < (5e-6 if dtype == torch.float32 else 5e-3)


def test_no_tokens_leave_the_state_alone():
    tensors = make(4, 0)
    state = torch.randn(2, 3, 4, dtype=torch.float64)
    y, after = dense_ssm(**tensors, initial_state=state, return_final_state=True)
    assert y.shape == (2, 0, 3)
    assert torch.equal(after, state)


@pytest.mark.parametrize("K", [None, 2])
@pytest.mark.parametrize("T", [5, CHUNK + 3])
def test_gradients_of_chunks_equal_those_of_steps(T, K):
    tensors = {k: x.requires_grad_() for k, x in make(4, T, K).items()}
    state = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    inputs = (*tensors.values(), state)
    grads = []
    for run in (
        dense_ssm(**tensors, initial_state=state, return_final_state=True),
        by_steps(*tensors.values(), state=state, alpha=0.5),
    ):
        loss = sum((x * torch.linspace(1, 2, x.numel()).view_as(x)).sum() for x in run)
        grads.append(torch.autograd.grad(loss, inputs))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11 * want.abs().max().item())


def test_gradcheck():
    tensors = {k: x.requires_grad_() for k, x in make(3, 3).items()}
    state = torch.randn(2, 3, 3, dtype=torch.float64).requires_grad_()

    def run(state, *tensors):
        return dense_ssm(*tensors, initial_state=state, return_final_state=True)

    assert torch.autograd.gradcheck(run, (state, *tensors.values()))


def changed(**change):
    return {**make(4, 5), **change}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"alpha": 1.5}, ValueError, "alpha must lie between 0 and 1, got 1.5"),
        ({"A": torch.eye(4, 5)}, ValueError, r"A must have shape \(N, N\) with N=4"),
        ({"B": torch.ones(5)}, ValueError, r"B must have shape \(N\) with N=4"),
        ({"C": torch.ones(2, 4)}, ValueError, r"C must have shape \(H, N\) with H=3"),
        ({"D": torch.ones(1, 3)}, ValueError, r"D must have shape \(H\)"),
        ({"dt": torch.tensor([1.0, 0.0, 1.0])}, ValueError, "dt must be positive and finite"),
        ({"dt": torch.full((3,), torch.inf)}, ValueError, "dt must be positive and finite"),
        ({"A": torch.eye(4).half()}, TypeError, "A must have dtype"),
        ({"u": torch.ones(2, 5, 3).long()}, TypeError, "u must have one of the dtypes"),
        ({"initial_state": torch.ones(1, 3, 4)}, ValueError, "initial_state must have shape"),
        ({"initial_state": torch.ones(2, 3, 4)}, TypeError, "initial_state must have dtype"),
    ],
)
def test_arguments_that_can_not_be(change, error, message):
    with pytest.raises(error, match=message):
        dense_ssm(**changed(**change))


def test_a_step_takes_one_token():
    with pytest.raises(ValueError, match=r"u must have shape \(B, 1, H\), one token"):
        dense_ssm_step(**make(4, 2), state=torch.zeros(2, 3, 4, dtype=torch.float64))
