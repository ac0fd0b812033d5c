# SPDX-License-Identifier: Apache-2.0
"""The state-space model with a dense transition, as in LSSL: plain PyTorch on every device."""

import torch
from torch import Tensor

from .._core.checks import check_same, check_shape, check_state
from .._core.dtypes import state_dtype
from .checks import check_parameter
from .discretise import check_steps
from .memo import remembered

# Tokens per chunk: what a token costs, 2 CHUNK + 4 N + 2 N^2 / CHUNK operations per channel, is
# least near here for N = 64.
CHUNK = 64


def dense_ssm(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    alpha: float = 0.5,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run x_t = Abar x_{t-1} + Bbar u_t, y_t = C x_t + D u_t in every channel, N states each.

    Abar = (I - alpha dt A)^-1 (I + (1 - alpha) dt A), Bbar = (I - alpha dt A)^-1 dt B: the
    generalised bilinear transform.

    Args:
        u: [B, T, H] inputs.
        A: [N, N] the matrix of all channels. B: [N] its input vector.
        C: [H, N], or [K, H, N] for K outputs per channel.
        dt: [H] step sizes, positive.
        D: [H], or [K, H] with K outputs.
        alpha: 0.5 is the trapezoidal rule, 1 backward and 0 forward Euler.
        initial_state: [B, H, N] state before the first token, zeros if None.
        return_final_state: return the state after the last token too.
        lengths: [B] int64, the number of tokens of each row, T by default: later ones, whose
            outputs mean nothing, leave no trace in the final state.

    Returns:
        y [B, T, H] or [B, T, K, H] in the dtype of u, and the final state [B, H, N] or None.

    Dtypes: u float64, float32, bfloat16, float16; parameters of that dtype, float32 or float64.
    States are float32, or float64 for float64 u. Powers of Abar are taken in float64.

    Cost: 4 N + 2 CHUNK + 2 N^2 / CHUNK multiplications and additions per token, channel and
    output, H (N^3 + N^2 CHUNK) for the powers. A training step keeps O(H (N^2 + CHUNK N)) numbers
    of the powers and N / CHUNK per token and channel: no kernel as long as the sequence.

    Raises:
        TypeError: an argument that is not a tensor or whose dtype is not supported.
        ValueError: shapes or devices that disagree, alpha outside [0, 1], or dt that are not
            positive and finite (looked at on the CPU only).

    Source: Gu et al., "Combining Recurrent, Convolutional, and Continuous-time Models with Linear
    State-Space Layers", arXiv 2110.13985, section 3.1.
    """
    sizes = _check(u, A, B, C, dt, D, alpha)
    dtype, T = state_dtype(u.dtype), u.shape[1]
    if initial_state is None:
        state = u.new_zeros((sizes["B"], sizes["H"], sizes["N"]), dtype=dtype)
    else:
        check_state("initial_state", initial_state, "B H N", sizes, dtype, u)
        state = initial_state

    # one chunk from a zero state, [H, Q, K Q]; what it leaves behind, [H, Q, N]; what a state
    # before it adds, [H, N, K Q]; and Abar to the powers 1, 2, 4, ... Q
    c = C.double() if C.ndim == 3 else C.double()[None]
    Q = min(CHUNK, 1 << max(T - 1, 0).bit_length())
    columns, rows, squares = _powers(*_discretise(A, B, dt, alpha), c, Q)
    kernel = torch.einsum("khn,hnq->hkq", c, columns)
    inside = _toeplitz(kernel).to(dtype)
    writes = columns.flip(-1).mT.to(dtype)
    reads = rows.to(dtype)
    squares = [square.mT.to(dtype) for square in squares]

    # chunks as rows: [H, B, G, Q]
    G = max(1, -(-T // Q))
    padded = torch.nn.functional.pad(u.to(dtype), (0, 0, 0, G * Q - T))
    chunks = padded.unflatten(1, (G, Q)).permute(3, 0, 1, 2)
    new = torch.einsum("hbgq,hqn->ghbn", chunks, writes)
    before = [state.transpose(0, 1)]
    for g in range(G - 1):
        before.append(before[-1] @ squares[-1] + new[g])
    y = torch.einsum("hbgq,hqr->hbgr", chunks, inside)
    y = y + torch.einsum("ghbn,hnr->hbgr", torch.stack(before), reads)
    y = y.unflatten(-1, (c.shape[0], Q)).permute(1, 2, 4, 3, 0).flatten(1, 2)[:, :T]
    y = _skip(y.reshape(*u.shape[:2], *C.shape[:-1]), u, D)
    if not return_final_state:
        return y, None
    return y, _final_state(chunks, torch.stack(before), writes, squares, lengths, T)


def dense_ssm_step(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor | None = None,
    *,
    alpha: float = 0.5,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance `dense_ssm` by one token; differentiates and leaves `state` as it was.

    Args:
        u: [B, 1, H] inputs.
        state: [B, H, N] the state that `dense_ssm` or the previous step returned.
        A, B, C, dt, D, alpha: as in `dense_ssm`.

    Returns:
        y [B, 1, H] or [B, 1, K, H] in the dtype of u, and the new state.

    Cost: H N^2 multiplications and additions per row, in float64; Abar, H N^3, again whenever the
    parameters are others than those of the step before.

    Raises:
        TypeError, ValueError: as `dense_ssm`, and T other than 1.
    """
    sizes = _check(u, A, B, C, dt, D, alpha)
    if sizes["T"] != 1:
        raise ValueError(f"u must have shape (B, 1, H), one token, got {tuple(u.shape)}")
    check_state("state", state, "B H N", sizes, state_dtype(u.dtype), u)
    a, b = remembered(_discretise, (A, B, dt), alpha)
    x = a @ state.double().permute(1, 2, 0) + b[..., None] * u.double().permute(2, 1, 0)
    x = x.permute(2, 0, 1)
    y = (C.double() * (x if C.ndim == 2 else x[:, None])).sum(-1)
    return _skip(y[:, None], u, D), x.to(state.dtype).contiguous()


def _discretise(A: Tensor, B: Tensor, dt: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Abar [H, N, N] and Bbar [H, N] in float64."""
    A, B, dt = (x.double() for x in (A, B, dt))
    step = dt[:, None, None] * A
    one = torch.eye(A.shape[0], dtype=torch.float64, device=A.device)
    right = torch.cat((one + (1 - alpha) * step, (dt[:, None] * B)[..., None]), -1)
    both = torch.linalg.solve(one - alpha * step, right)
    return both[..., :-1], both[..., -1]


def _powers(a: Tensor, b: Tensor, c: Tensor, Q: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """a^j b [H, N, Q] for j < Q; c a^(j+1) [H, N, K Q] likewise; and a^1, a^2, a^4 ... a^Q."""
    squares = [a]
    columns, rows = b[..., None], (c.transpose(0, 1) @ a)[:, :, None]  # [H, K, 1, N]
    while columns.shape[-1] < Q:
        columns = torch.cat((columns, squares[-1] @ columns), -1)
        rows = torch.cat((rows, rows @ squares[-1][:, None]), -2)
        squares.append(squares[-1] @ squares[-1])
    return columns, rows.flatten(1, 2).mT, squares


def _toeplitz(kernel: Tensor) -> Tensor:
    """From kernels [H, K, Q] to what takes Q inputs to Q outputs each, [H, Q, K Q]."""
    Q = kernel.shape[-1]
    t = torch.arange(Q, device=kernel.device)
    lag = t - t[:, None]  # [input, output]
    table = torch.where(lag >= 0, kernel[..., lag.clamp_min(0)], 0)
    return table.transpose(1, 2).flatten(2)


def _final_state(
    chunks: Tensor,
    before: Tensor,
    writes: Tensor,
    squares: list[Tensor],
    lengths: Tensor | None,
    T: int,
) -> Tensor:
    """[B, H, N] after each row's last token: on from `before` [G, H, B, N] its last chunk."""
    _, B, _, Q = chunks.shape
    rows = torch.arange(B, device=chunks.device)
    if lengths is None:
        lengths = torch.full_like(rows, T)
    last = (lengths - 1).clamp_min(0) // Q
    left = lengths - last * Q
    state = before[last, :, rows].transpose(0, 1)
    for bit, square in enumerate(squares):  # the powers 1, 2, 4 ... that make up `left`
        state = torch.where((left >> bit & 1).bool()[:, None], state @ square, state)
    at = torch.arange(Q, device=chunks.device) - (Q - left)[:, None]
    tail = chunks[:, rows, last].gather(-1, at.clamp_min(0).expand(chunks.shape[0], B, Q))
    state = state + torch.where(at >= 0, tail, 0) @ writes
    return state.transpose(0, 1).contiguous()


def _skip(y: Tensor, u: Tensor, D: Tensor | None) -> Tensor:
    """y plus D u, in the dtype of u."""
    if D is not None:
        u_for_all = u if D.ndim == 1 else u[:, :, None]
        y = y + D.to(y.dtype) * u_for_all.to(y.dtype)
    return y.to(u.dtype)


def _check(
    u: Tensor, A: Tensor, B: Tensor, C: Tensor, dt: Tensor, D: Tensor | None, alpha: float
) -> dict[str, int]:
    sizes: dict[str, int] = {}
    check_shape("u", u, "B T H", sizes)
    check_same(("u",), (u,))
    several = isinstance(C, Tensor) and C.ndim == 3
    dims = {"A": "N N", "B": "N", "C": "K H N" if several else "H N", "dt": "H"}
    for (name, wanted), x in zip(dims.items(), (A, B, C, dt), strict=True):
        check_parameter(name, x, wanted, sizes, u)
    if D is not None:
        check_parameter("D", D, "K H" if several else "H", sizes, u)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    check_steps(dt)
    return sizes
