# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.kernel_generation`: `ssm_kernel` beside every power of every mode in float32.

LegS with n = 64, 64 channels with step sizes from 1e-4 to 1e-1. Errors are those against the naive
form in float64, largest over a channel's maximum.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seqlib_kernels import ssm_kernel
from torch import Tensor

from seqlib.layers.ssm_init import s4d

from .environment import commit, versions
from .peers.diagonal_torch import naive_kernel
from .timing import Run, Sample, summarise, take_turns

FILE = "kernel_generation.jsonl"
LENGTHS = (1024, 4096, 16384)
FORMS: Mapping[str, Callable[..., Tensor]] = {"ssm_kernel": ssm_kernel, "naive": naive_kernel}


def draw(channels: int, states: int) -> dict[str, Tensor]:
    """A, B [H, M, 2], C [H, M, 2] and dt [H], float64."""
    lam, B = (np.broadcast_to(x, (channels, len(x))) for x in s4d("legs", states))
    C = torch.randn(channels, lam.shape[1], 2, generator=torch.Generator().manual_seed(0))
    return {
        "A": torch.view_as_real(torch.from_numpy(lam.copy())),
        "B": torch.view_as_real(torch.from_numpy(B.astype(complex))),
        "C": C.double(),
        "dt": torch.logspace(-4, -1, channels, dtype=torch.float64),
    }


def measure(length: int, channels: int, states: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each form, timed in turns on one thread."""
    exact = draw(channels, states)
    given = {name: x.float() for name, x in exact.items()}
    rounded = {name: x.double() for name, x in given.items()}
    want = naive_kernel(**rounded, length=length)
    size = want.abs().amax(1)

    def sample(run: Run) -> Sample:
        start = time.process_time()
        run(lambda: None)
        return Sample(time.process_time() - start)

    runs: dict[str, Run] = {
        name: lambda _, form=form: form(**given, length=length) for name, form in FORMS.items()
    }
    errors = {
        name: ((form(**given, length=length) - want).abs().amax(1) / size).max().item()
        for name, form in FORMS.items()
    }
    samples = take_turns(runs, sample, seconds)
    shape = {"H": channels, "M": given["A"].shape[1], "L": length}
    return [
        {
            "form": name,
            "shape": shape,
            "seconds": summarise([x.total for x in taken]).median,
            "samples": len(taken),
            "error": errors[name],
        }
        for name, taken in samples.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write a JSON line per row."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_generation", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/out"), metavar="DIR")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="L")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--states", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=6.0, help="given to each form and length")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    (head, dirty), found = commit(), versions()
    with (options.out / FILE).open("w", encoding="utf-8") as file, torch.no_grad():
        for length in options.lengths:
            rows = measure(length, options.channels, options.states, options.seconds)
            for row in rows:
                file.write(json.dumps({**row, "commit": head, "dirty": dirty, **found}) + "\n")
            ours, naive = rows
            print(
                f"L {length:6}: "
                f"ssm_kernel {1e3 * ours['seconds']:8.2f} ms, error {ours['error']:.1e}; "
                f"naive {1e3 * naive['seconds']:8.2f} ms, error {naive['error']:.1e}; "
                f"{naive['seconds'] / ours['seconds']:.0f} times faster, "
                f"{naive['error'] / ours['error']:.0f} times closer"
            )


if __name__ == "__main__":
    main()
