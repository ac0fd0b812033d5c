# SPDX-License-Identifier: Apache-2.0
"""S5: blocks of one small diagonalised system, and the input and output maps in its basis."""

import math
from typing import Any

import numpy as np
import torch

from .hippo import Complex, Real
from .modes import Modes, legs_modes
from .ptd import ptd_init

INITS = {"legs": None, "ptd": "optimise", "ptd_rank1": "rank1", "ptd_ginibre": "ginibre"}
C_INITS = ("lecun_normal", "trunc_standard_normal", "complex_normal")
B_INITS = ("lecun_normal", "hippo")
# The standard deviation of a standard normal cut at two of them.
CUT_DEVIATION = 0.87962566103423978


def s5_init(
    state_size: int,
    blocks: int,
    hidden_size: int,
    *,
    init: str = "ptd",
    b_init: str = "lecun_normal",
    c_init: str = "lecun_normal",
    conj_sym: bool = True,
    bidirectional: bool = False,
    generator: torch.Generator | None = None,
    **ptd: Any,
) -> dict[str, Real | Complex]:
    """Parameters of one S5 layer but the step sizes: `x' = lam x + B u, y = w Re(C x) + D u`.

    With n = state_size / blocks states a block, B = V^-1 B_real and C = C_complex V blockwise.

    Args:
        state_size: states before conjugates are left out.
        blocks: J equal systems of n states.
        hidden_size: H, channels of u and y.
        init: of a block: "ptd" (optimised), "ptd_rank1", "ptd_ginibre" or "legs" (normal part).
        b_init: B_real [state_size, H]: "lecun_normal", or "hippo": the column b for every channel.
        c_init: C_complex: "lecun_normal" or "trunc_standard_normal" [H, state_size], or
            "complex_normal": C itself, with real and imaginary parts of variance 1/2.
        conj_sym: keep one of each pair (w = 2), else all states (w = 1).
        bidirectional: two readouts side by side, forward states first.
        generator: of the random maps; torch's own when None.
        ptd: options of `ptd_init`.

    Returns:
        lam [P], B [P, H], C [H, P] ([H, 2P] if bidirectional) complex128 and D [H] float64. P is
        state_size / 2 for legs and ptd_rank1 with conj_sym; an optimised E may leave some
        eigenvalues real, each a state of its own. Their C is halved against w = 2.

    Raises:
        ValueError: an unknown init, sizes < 1, blocks that don't divide state_size, an odd n with
            conj_sym, or what `ptd_init` refuses.

    Sources: arXiv 2208.04933, 2310.01698.
    """
    _check(state_size, blocks, hidden_size, init, b_init, c_init)
    n = state_size // blocks
    if conj_sym and n % 2:
        raise ValueError(f"state_size / blocks must be even with conj_sym, got {n}")
    method = INITS[init]
    if method is None:
        modes = legs_modes(n, paired=conj_sym, **ptd)
    else:
        modes = ptd_init(n, method, **ptd).modes(paired=conj_sym)
    # w = 1 reads every state once: the halves are of w = 2
    weight = np.tile(modes.weight if conj_sym else 2 * modes.weight, blocks)
    if b_init == "hippo":
        B = np.tile(modes.B, blocks)[:, None].repeat(hidden_size, 1)
    else:
        B_real = _lecun(state_size, hidden_size, fan_in=state_size, generator=generator)
        B = np.einsum("mn,jnh->jmh", modes.Vinv, B_real.reshape(blocks, n, -1)).reshape(
            -1, hidden_size
        )
    shape = (state_size, hidden_size, len(weight))
    readouts = [_readout(c_init, modes, shape, generator) for _ in range(1 + bidirectional)]
    D = torch.randn(hidden_size, dtype=torch.float64, device="cpu", generator=generator)
    return {
        "lam": np.tile(modes.lam, blocks),
        "B": B,
        "C": np.concatenate([weight * C for C in readouts], axis=1),
        "D": D.numpy(),
    }


def _readout(
    c_init: str, modes: Modes, shape: tuple[int, int, int], generator: torch.Generator | None
) -> Complex:
    """[H, P] complex."""
    state_size, hidden_size, P = shape
    if c_init == "complex_normal":
        pair = torch.randn(
            hidden_size, P, 2, dtype=torch.float64, device="cpu", generator=generator
        )
        return torch.view_as_complex(pair * math.sqrt(0.5)).numpy()
    fan_in = state_size * (hidden_size if c_init == "lecun_normal" else 1)
    pair = _lecun(hidden_size, state_size, 2, fan_in=fan_in, generator=generator)
    C = (pair[..., 0] + 1j * pair[..., 1]).reshape(hidden_size, -1, len(modes.V))
    return (C @ modes.V).reshape(hidden_size, P)


def _lecun(*shape: int, fan_in: int, generator: torch.Generator | None) -> Real:
    """Normal values of variance 1 / fan_in, none beyond two standard deviations before the cut."""
    values = torch.empty(shape, dtype=torch.float64, device="cpu")
    torch.nn.init.trunc_normal_(values, 0.0, 1.0, -2.0, 2.0, generator=generator)
    return values.numpy() / (CUT_DEVIATION * math.sqrt(fan_in))


def _check(
    state_size: int, blocks: int, hidden_size: int, init: str, b_init: str, c_init: str
) -> None:
    for name, value, known in (
        ("init", init, INITS),
        ("b_init", b_init, B_INITS),
        ("c_init", c_init, C_INITS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for name, size in (("state_size", state_size), ("hidden_size", hidden_size)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if blocks < 1 or state_size % blocks:
        raise ValueError(f"blocks must divide state_size={state_size}, got {blocks}")
