# SPDX-License-Identifier: Apache-2.0
"""The public convolution kernel of a diagonal state-space model."""

from functools import reduce

import torch
from torch import Tensor

from .._core.checks import check_same, check_shape
from .checks import check_diagonal
from .diagonal.arguments import one_step
from .discretise import Discretization, check_discretization, check_rate, check_steps
from .pairs import as_pairs, mul
from .vandermonde import synthesise


def ssm_kernel(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    length: int,
    *,
    discretization: Discretization = "zoh",
    rate: float = 1.0,
    conj_sym: bool = True,
) -> Tensor:
    """The kernels K[h, t] = w Re(sum over modes of C b a^t) with which `diagonal_ssm` convolves.

    a and b are A and B discretised with the step rate dt of the channel; w is 2 with `conj_sym`,
    where every mode stands for itself and its conjugate, otherwise 1.

    Args:
        A, B: [S, M, 2] pairs; S divides H and channel h reads copy h mod S.
        C: [H, M, 2] pairs, or [2, H, M, 2] for two kernels per channel.
        dt: [H] or [H, M] step sizes, positive and finite; not checked on a GPU.
        length: of the kernels, from t = 0.
        discretization, rate: as in `diagonal_ssm`.

    A complex tensor without the axis of pairs serves as well.

    Returns:
        K [H, length] or [2, H, length], in the widest dtype of the parameters and at least
        float32. Powers are formed in float64: long kernels keep their phase. Every parameter has
        a gradient.

    Cost: 4 M sqrt(length) powers and 4 M length operations per channel; no tensor of shape
    (H, M, length) in either pass.

    Raises:
        ValueError: shapes, dtypes or devices that disagree, S that does not divide H, a negative
            length, step sizes or a rate that are not positive and finite.
        TypeError: something that is not a tensor or number, or a dtype that is not supported.

    Source: Gu et al., "On the Parameterization and Initialization of Diagonal State Space
    Models", arXiv 2206.11893.
    """
    A, B, C = (as_pairs(x) for x in (A, B, C))
    sizes: dict[str, int] = {}
    check_shape("A", A, "S M 2", sizes)
    check_same(("A",), (A,))
    both = isinstance(C, Tensor) and C.ndim == 4
    check_diagonal(A, B, C, dt, sizes, both, A, "A")
    check_discretization(discretization)
    check_rate(rate)
    check_steps(dt)
    if not length >= 0:
        raise ValueError(f"length must not be negative, got {length}")
    dtype = reduce(torch.promote_types, (x.dtype for x in (A, B, C, dt)), torch.float32)
    a, b, c = one_step(A, B, C, dt, discretization, rate, conj_sym)
    # CPUs multiply float64 at half the speed of float32, some GPUs at a sixty-fourth.
    product = torch.float64 if A.device.type == "cpu" else dtype
    K = synthesise(a, mul(c if both else c[None], b), length, product).to(dtype)
    return K if both else K[0]
