# SPDX-License-Identifier: Apache-2.0
"""Step sizes and eigenvalues of state-space models: accuracy, and the numbers at the edges."""

import pytest
import torch
from seqlib_kernels._core.discretise import eigenvalues, step_sizes

INF, NAN = float("inf"), float("nan")


# Measured: 7.9e-8 and 1.4e-7; float64 2.0e-16 and 3.6e-16. log(1 + exp(x)) as it stands loses all
# at -17.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 4e-7), (torch.float64, 2e-15)])
def test_softplus_is_exact_to_rounding(dtype, bound):
    dt = torch.linspace(-80, 40, 1201, dtype=dtype).requires_grad_()
    delta = step_sizes(dt, None, True, dtype)
    (slope,) = torch.autograd.grad(delta.sum(), dt)
    x = dt.detach().double()
    want = torch.where(x > 20, x, x.clamp(min=0) + (-x.abs()).exp().log1p())
    assert ((delta - want).abs() / want).max() <= bound
    want = torch.where(x > 20, 1.0, x.sigmoid())
    assert ((slope - want).abs() / want).max() <= bound


def test_edges_of_softplus():
    dt = torch.tensor([-INF, 1000.0, INF, NAN]).requires_grad_()
    delta = step_sizes(dt, None, True, torch.float32)
    (slope,) = torch.autograd.grad(delta.sum(), dt)
    torch.testing.assert_close(delta, torch.tensor([0, 1000, INF, NAN]), equal_nan=True)
    torch.testing.assert_close(slope, torch.tensor([0, 1.0, 1.0, NAN]), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_step_sizes_are_made_in_the_dtype_of_states(dtype):
    dt, bias = torch.tensor([[1.0]]).to(dtype), torch.tensor([1e-3])
    assert step_sizes(dt, bias, False, torch.float32).item() == pytest.approx(1.001, rel=1e-6)


def test_an_element_does_not_depend_on_where_it_lies():
    dt = torch.linspace(-9, 9, 37)
    whole = step_sizes(dt, None, True, torch.float32)
    for i in range(37):
        assert torch.equal(step_sizes(dt[i:].clone(), None, True, torch.float32), whole[i:])


def test_both_maps_of_eigenvalues():
    exponents = torch.tensor([0.0, -torch.tensor(2.0).log(), -300.0])
    assert eigenvalues(exponents, False).tolist() == pytest.approx([1, 0.5, 0])
    assert eigenvalues(exponents, True).tolist() == pytest.approx([1, 0, -1], abs=1e-7)
    assert eigenvalues(exponents, True)[2] == -1
