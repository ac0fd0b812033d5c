# SPDX-License-Identifier: Apache-2.0
"""Chunks, tiles and warps of the delta rule's Triton kernels; no Triton here."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .._core.chunks import arithmetic, itemsize, slots
from .._core.dtypes import state_dtype
from .._core.launch import INTERPRETER, Launch, LaunchTable, multiprocessors

MAX_K = 256  # a program holds K rows of the state in registers
MAX_NH = 64  # the rows of a token lie in one chunk

# C rows make a chunk; a sweep holds a [K, BV] tile of the state, as blocks of BK keys: what a dot
# reads of them takes registers too. The width is K. Which rows compile without spills was found
# by trying (tests/aot); none was timed.
LAUNCH = LaunchTable(
    (
        Launch(arch=INTERPRETER, itemsize=4, width=8, tiles={"C": 64, "BK": 16, "BV": 16}),
        Launch(arch=INTERPRETER, itemsize=4, width=MAX_K, tiles={"C": 32, "BK": 64, "BV": 16}),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=64,
            tiles={"C": 64, "BK": 64, "BV": 32},
            per_kernel={
                "chunk_matrices": {"num_warps": 8},
                "chunk_gradients": {"num_warps": 8, "num_stages": 3},
            },
        ),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=128,
            tiles={"C": 32, "BK": 64, "BV": 32},
            num_warps=8,
            per_kernel={"chunk_gradients": {"BK": 32}},
        ),
        Launch(
            arch="sm_90",
            itemsize=2,
            width=256,
            tiles={"C": 32, "BK": 64, "BV": 16},
            num_warps=8,
        ),
        Launch(
            arch="sm_90",
            itemsize=4,
            width=128,
            tiles={"C": 16, "BK": 64, "BV": 32},
            num_warps=8,
            per_kernel={
                "forward_sweep": {"num_stages": 3},
                "forward_sweep split": {"num_stages": 1},
            },
        ),
        Launch(
            arch="sm_90",
            itemsize=4,
            width=256,
            tiles={"C": 16, "BK": 64, "BV": 32},
            num_warps=8,
            per_kernel={
                "backward_sweep map": {"num_stages": 1},
                "chunk_gradients": {"num_warps": 4},
            },
        ),
        Launch(
            arch="sm_80",
            itemsize=2,
            width=256,
            tiles={"C": 32, "BK": 64, "BV": 32},
            num_warps=8,
        ),
        Launch(
            arch="sm_80",
            itemsize=4,
            width=256,
            tiles={"C": 16, "BK": 64, "BV": 16},
            num_warps=8,
        ),
        Launch(arch="gfx942", itemsize=2, width=256, tiles={"C": 16, "BK": 64, "BV": 32}),
        Launch(arch="gfx942", itemsize=4, width=256, tiles={"C": 16, "BK": 64, "BV": 16}),
    ),
    default="sm_90",
)


def pick(q: Tensor) -> Launch:
    """The launch row for queries [B, T, H, K]."""
    return LAUNCH.pick(q, q.shape[3], itemsize(q.dtype))


def chunk_rows(row: Launch, num_householder: int) -> tuple[int, int]:
    """C, the rows of a chunk, and Q, those of its queries: as many as a chunk has whole tokens.

    Both are tiles of dots, powers of two from 16 up. The rows of a token never part: more than
    the launch row has make a wider chunk.
    """
    C = max(row.tiles["C"], 1 << (num_householder - 1).bit_length())
    tokens = C // num_householder
    return C, max(16, 1 << (tokens - 1).bit_length())


@dataclass(frozen=True)
class Split:
    """When sequences are split into segments that are swept side by side.

    Attributes:
        segments: a split gives the average sequence this many segments or more: what it costs
            besides is about one more sweep.
        chunks: a segment has this many chunks or more.
    """

    segments: int
    chunks: int


SPLIT = Split(segments=4, chunks=8)  # not yet timed


def segment_chunks(q: Tensor, v: Tensor, num_householder: int, sequences: int) -> int:
    """Chunks per segment, or 0 where sequences stay whole: known from shapes and the device.

    Sequences are split where sweeps, of a program for each of them, value head and block of V,
    leave most of the device idle; then into as many segments as fill it once.
    """
    processors = multiprocessors(q.device)
    if processors == 0 or sequences == 0:
        return 0
    row = pick(q)
    (B, T), (HV, V), BV = q.shape[:2], v.shape[2:], row.tiles["BV"]
    tokens = chunk_rows(row, num_householder)[0] // num_householder
    chunks = (B * T // sequences + tokens - 1) // tokens  # of the average sequence
    programs = sequences * HV * ((V + BV - 1) // BV)
    # sym_min: under torch.compile lengths are symbols, and min would bind the graph to an order
    segments = cast(int, torch.sym_min(processors // programs, chunks // SPLIT.chunks))
    return (chunks + segments - 1) // segments if segments >= SPLIT.segments else 0


def saved_shapes(
    q: Tensor, v: Tensor, num_householder: int, sequences: int
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """The tensors kept for the backward pass: M and P of each chunk, and its row factors.

    Where sequences are split, also the state before each segment and the map of the segment.
    """
    row = pick(q)
    kept, wide = arithmetic(q.dtype, row).kept, state_dtype(q.dtype)
    C, Q = chunk_rows(row, num_householder)
    HV, K, V = v.shape[2], q.shape[3], v.shape[3]
    tokens = C // num_householder
    B, T = q.shape[:2]
    lead = (slots(B, T, sequences, tokens), HV)
    shapes = [((*lead, C, C), wide), ((*lead, Q, C), kept), ((*lead, 3 * C + 2 * Q), wide)]
    segment = segment_chunks(q, v, num_householder, sequences)
    if segment:
        lead = (slots(B, T, sequences, segment * tokens), HV)
        shapes += [((*lead, K, V), wide), ((*lead, K, K), wide)]
    return shapes
