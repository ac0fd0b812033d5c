# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.separation`: MossFormer2 beside the same network written the public way.

Random weights, float32, one thread. Forward pass, training step (loss and gradients of all
weights) and the peak of memory above the weights, each form and task in a process of its own,
which computes both forms' outputs once to compare them.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqlib.models import MossFormer2Config, MossFormer2ForSpeechSeparation
from seqlib.models.convert.mossformer2 import to_theirs
from seqlib.models.mossformer2.loss import si_snr_pit_loss

from .cpu import peak_bytes
from .environment import commit, versions
from .peers.mossformer2_public import PublicMossFormer2

FILE = "separation.jsonl"
FORMS = ("seqlib", "public form")
TASKS = ("forward", "training step")


def build(preset: str, form: str) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """The network as a function of the waveform, and its weights."""
    torch.manual_seed(0)
    config = MossFormer2Config.from_preset(preset, dropout=0.0)
    model = MossFormer2ForSpeechSeparation(config)
    if form == "seqlib":
        return lambda waveform: model(waveform).sources, list(model.parameters())
    weights = {n: x.clone() for n, x in to_theirs(model.state_dict(), config).items()}
    trained = [x.requires_grad_() for n, x in weights.items() if not n.endswith(("freq", "freqs"))]
    return PublicMossFormer2(weights, config.group_size), trained


def measure(form: str, task: str, preset: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Seconds of CPU time, the best of `rounds`, and bytes of memory of one form and task."""
    torch.set_num_threads(1)
    network, weights = build(preset, form)
    generator = torch.Generator().manual_seed(1)
    waveform = torch.randn(1, round(8000 * seconds), generator=generator)
    labels = torch.randn(1, 2, waveform.shape[1], generator=generator)

    def forward() -> Tensor:
        with torch.no_grad():
            return network(waveform)

    def step() -> Tensor:
        loss = si_snr_pit_loss(network(waveform), labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    run = forward if task == "forward" else step
    network(waveform[:, :800])  # compiles what is compiled
    most = peak_bytes(run)  # of a first run, as freed memory that is kept would hide another's
    taken, result = [], torch.empty(0)
    for _ in range(rounds):
        start = time.process_time()
        result = run()
        taken.append(time.process_time() - start)
    return {"seconds": min(taken), "bytes": most, "norm": result.double().norm().item()}


def alone(*arguments: Any) -> dict[str, Any]:
    """`measure` in a fresh process, whose peak of memory is that of the run.

    Raises:
        BrokenProcessPool: the process was killed, as systems do that are out of memory.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def compare(preset: str, task: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """A row for each form.

    Raises:
        RuntimeError: the forms disagree.
    """
    rows = [{"form": f, "task": task, **alone(f, task, preset, seconds, rounds)} for f in FORMS]
    ours, theirs = (row.pop("norm") for row in rows)
    if not abs(ours - theirs) <= 1e-3 * theirs:
        raise RuntimeError(f"the forms disagree: norms of {task} are {ours} and {theirs}")
    return rows


def line(rows: Sequence[Mapping[str, Any]]) -> str:
    """One task in words."""
    ours, theirs = rows
    forms = "; ".join(f"{row['form']} {row['seconds']:6.2f} s{memory(row)}" for row in rows)
    return f"{ours['task']:14} {forms}; {theirs['seconds'] / ours['seconds']:.2f} times faster"


def memory(row: Mapping[str, Any]) -> str:
    """The peak, where the system tells."""
    return "" if row["bytes"] is None else f", {row['bytes'] / 1e6:.0f} MB"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write a JSON line per row."""
    parser = argparse.ArgumentParser(prog="python -m bench.separation", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/out"), metavar="DIR")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seconds", type=float, default=4.0, help="of audio at 8 kHz")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    (head, dirty), found = commit(), versions()
    shared = {"preset": options.preset, "audio_seconds": options.seconds}
    with (options.out / FILE).open("w", encoding="utf-8") as file:
        for task in TASKS:
            rows = compare(options.preset, task, options.seconds, options.rounds)
            for row in rows:
                record = {**row, **shared, "commit": head, "dirty": dirty, **found}
                file.write(json.dumps(record) + "\n")
            print(line(rows))


if __name__ == "__main__":
    main()
