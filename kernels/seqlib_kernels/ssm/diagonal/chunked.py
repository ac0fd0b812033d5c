# SPDX-License-Identifier: Apache-2.0
"""The diagonal state-space model as matrix products inside chunks, a state handed between them.

Per channel and chunk of S tokens: y = K u + R x with the state x before it, and x' = a^S x + W u,
where K is the lower triangle of the kernel's first S values. Tables and states are complex128,
products have the state's dtype. Nothing here is traced by a compiler; but compiled graphs run it
without heeding the mark that conj() leaves, hence conj_physical().
"""

from itertools import pairwise

import torch
from torch import Tensor

from ..._core import alloc
from ..._core.dtypes import state_dtype
from ..._core.varlen import bounds_of
from .arguments import Tensors

CHUNK = 64
_NO_PIECE = 1 << 40  # longer than any sequence: the backward pass recomputes from h0


def piece_length(u: Tensor, modes: int) -> int:
    """How many steps lie between two states that are kept for the backward pass."""
    return _NO_PIECE


def forward(given: Tensors, reverse: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,H], hT [Nseq,H,M,2] and states that nobody reads; see `op.py`."""
    u, dtype = given.u, state_dtype(given.u.dtype)
    y, hT = alloc.empty(u.shape, u), alloc.empty((given.sequences, *given.a.shape), u, dtype)
    slots, *shape = given.states_shape(_NO_PIECE)
    skip = 0 if given.D is None else given.D
    for batch, states, tokens in _sequences(given, reverse):
        x = _initial(given, states)
        for at, size in _parts(tokens):
            read, _, x = _Chunk(given, size).forward(_in_chunks(u, batch, at, size), x)
            y[batch, at] = (_in_time(read) + skip * u[batch, at].to(dtype)).to(u.dtype)
        hT[states] = torch.view_as_real(x).transpose(0, 1).to(dtype)
    return y, hT, hT.new_zeros((slots if save else 0, *shape))


def backward(
    dy: Tensor, dhT: Tensor, given: Tensors, states: Tensor, reverse: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of u, a, b, c, D and h0; see `op.py`."""
    u, dtype = given.u, state_dtype(given.u.dtype)
    du, dh0 = alloc.empty(u.shape, u), alloc.empty(dhT.shape, dhT)
    parameters = torch.zeros(3, *given.a.shape[:2], dtype=torch.complex128)
    skip = 0 if given.D is None else given.D
    for batch, which, tokens in _sequences(given, reverse):
        x = _initial(given, which)
        visited = []
        for at, size in _parts(tokens):
            chunk, rows = _Chunk(given, size), _in_chunks(u, batch, at, size)
            _, before, x = chunk.forward(rows, x)
            visited.append((at, chunk, rows, before))
        dx = _complex(dhT[which])
        for at, chunk, rows, before in reversed(visited):
            written, dx, gradients = chunk.backward(
                _in_chunks(dy, batch, at, chunk.size), rows, before, dx
            )
            du[batch, at] = (_in_time(written) + skip * dy[batch, at].to(dtype)).to(u.dtype)
            parameters += gradients
        dh0[which] = torch.view_as_real(dx).transpose(0, 1).to(dtype)
    dD = None if given.D is None else (dy.double() * u.double()).sum((0, 1)).to(dtype)
    return du, *(x.clone() for x in torch.view_as_real(parameters)), dD, dh0


def _sequences(given: Tensors, reverse: bool) -> list[tuple[slice, slice, Tensor]]:
    """Rows of the batch, their states and their tokens in the order of the walk."""
    B, T, _ = given.u.shape
    if given.cu_seqlens is None:
        bounds, rows = [(0, T)], [slice(0, B)]
    else:
        bounds = list(pairwise(bounds_of(given.cu_seqlens, B, T).tolist()))
        rows = [slice(i, i + 1) for i in range(len(bounds))]
    walks = [torch.arange(start, stop) for start, stop in bounds]
    return [
        (slice(0, B), states, tokens.flip(0) if reverse else tokens)
        for states, tokens in zip(rows, walks, strict=True)
    ]


def _parts(tokens: Tensor) -> list[tuple[Tensor, int]]:
    """The tokens of all whole chunks, and those of a shorter last one, with the chunks' size."""
    whole = len(tokens) // CHUNK * CHUNK
    parts = ((tokens[:whole], CHUNK), (tokens[whole:], len(tokens) - whole))
    return [part for part in parts if len(part[0])]


def _in_chunks(x: Tensor, batch: slice, at: Tensor, size: int) -> Tensor:
    """[H, B, N, S] of the tokens `at` of x [B, T, H]."""
    rows = x[batch, at].to(state_dtype(x.dtype)).permute(2, 0, 1)
    return rows.unflatten(2, (-1, size)).contiguous()


def _in_time(x: Tensor) -> Tensor:
    """[B, tokens, H] of x [H, B, N, S]."""
    return x.flatten(2).permute(1, 2, 0)


def _initial(given: Tensors, states: slice) -> Tensor:
    """The states [H, B, M] before the first token."""
    if given.h0 is not None:
        return _complex(given.h0[states])
    count = len(range(*states.indices(given.sequences)))
    H, M, _ = given.a.shape
    return torch.zeros(H, count, M, dtype=torch.complex128)


def _complex(x: Tensor) -> Tensor:
    """complex128 [H, B, M] of pairs [B, H, M, 2]."""
    return torch.view_as_complex(x.double().contiguous()).transpose(0, 1)


class _Chunk:
    """The tables of chunks of one size."""

    def __init__(self, given: Tensors, size: int) -> None:
        self.size, dtype = size, state_dtype(given.u.dtype)
        a, self.b, self.c = (torch.view_as_complex(x) for x in (given.a, given.b, given.c))
        ratios = torch.cat((torch.ones_like(a)[..., None], a[..., None].expand(*a.shape, size)), -1)
        self.powers = ratios.cumprod(-1)  # [H, M, S+1]; a power function has no 0^0
        self.carry = self.powers[..., size]
        kernel = ((self.b * self.c)[..., None] * self.powers[..., :size]).sum(1).real
        t = torch.arange(size)
        lags = t[:, None] - t
        self.triangle = torch.where(lags >= 0, kernel[:, lags.clamp(min=0)], 0).to(dtype)
        read = self.c[..., None] * self.powers[..., 1:]
        self.read = torch.cat((read.real, -read.imag), 1).to(dtype)  # [H, 2M, S]
        write = (self.b[..., None] * self.powers[..., :size].flip(-1)).mT
        self.write = torch.cat((write.real, write.imag), 2).to(dtype)  # [H, S, 2M]

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What u [H, B, N, S] and x [H, B, M] give: [H, B, N, S], the states before, and after."""
        written = _from_planes(u @ self.write[:, None])
        before = torch.empty_like(written)
        for k in range(u.shape[2]):
            before[:, :, k] = x
            x = self.carry[:, None] * x + written[:, :, k]
        y = u @ self.triangle.mT[:, None] + _planes(before, u.dtype) @ self.read[:, None]
        return y, before, x

    def backward(
        self, dy: Tensor, u: Tensor, before: Tensor, dx: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of u, of x, and of a, b and c [3, H, M]."""
        seen = _from_planes(dy @ self.read.mT[:, None])
        after = torch.empty_like(seen)
        for k in range(u.shape[2] - 1, -1, -1):
            after[:, :, k] = dx
            dx = seen[:, :, k] + self.carry.conj_physical()[:, None] * dx
        planes = _planes(after, u.dtype)
        du = dy @ self.triangle[:, None] + planes @ self.write.mT[:, None]
        flat_u, flat_dy = u.flatten(1, 2), dy.flatten(1, 2)
        dread = (_planes(before, u.dtype).flatten(1, 2).mT @ flat_dy).double()
        dread = torch.complex(*dread.unflatten(1, (2, -1)).unbind(1)).conj_physical()  # [H, M, S]
        dwrite = _from_planes(flat_u.mT @ planes.flatten(1, 2)).mT  # [H, M, S]
        dkernel = _diagonals((flat_dy.mT @ flat_u).double())[:, None]  # [H, 1, S]
        return (
            du,
            dx,
            self._parameters(dkernel, dread, dwrite, (after * before.conj_physical()).sum((1, 2))),
        )

    def _parameters(self, dkernel: Tensor, dread: Tensor, dwrite: Tensor, dcarry: Tensor) -> Tensor:
        S, b, c = self.size, self.b.conj_physical(), self.c.conj_physical()
        power = self.powers.conj_physical()
        j = torch.arange(S)
        dwrite = dwrite.flip(-1)  # the last token of a chunk is written with a^0
        dc = b * (dkernel * power[..., :S]).sum(-1) + (dread * power[..., 1:]).sum(-1)
        db = c * (dkernel * power[..., :S]).sum(-1) + (dwrite * power[..., :S]).sum(-1)
        slopes = b * c * (j[1:] * dkernel[..., 1:] * power[..., : S - 1]).sum(-1)
        slopes += c * ((j + 1) * dread * power[..., :S]).sum(-1)
        slopes += b * (j[1:] * dwrite[..., 1:] * power[..., : S - 1]).sum(-1)
        return torch.stack((slopes + S * dcarry * power[..., S - 1], db, dc))


def _planes(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Complex [..., M] as reals [..., 2M], all real parts first."""
    return torch.cat((x.real, x.imag), -1).to(dtype)


def _from_planes(x: Tensor) -> Tensor:
    return torch.complex(*x.double().chunk(2, -1))


def _diagonals(x: Tensor) -> Tensor:
    """The sums [H, S] of x [H, S, S] along i - j = lag, for every lag >= 0."""
    S = x.shape[1]
    return torch.stack([x.diagonal(-lag, 1, 2).sum(-1) for lag in range(S)], -1)
