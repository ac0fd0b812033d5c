# SPDX-License-Identifier: Apache-2.0
"""The commands: run, report, tune, gpu-check."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from .device import Device
from .names import check_name
from .suites import OPS, SUITES, find_suite

OUT = Path("bench/out")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        return options.command(options)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"bench: error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="check and time the ops and their peers")
    run.add_argument("--suite", help=f"one of {', '.join(SUITES)}; the quick one of this machine")
    run.add_argument("--ops", nargs="+", default=OPS, metavar="OP", help=", ".join(OPS))
    run.add_argument("--out", type=Path, metavar="DIR", help=f"results folder ({OUT}/SUITE)")
    run.set_defaults(command=_run)

    report = commands.add_parser("report", help="write report.md and chart.png anew")
    report.add_argument("folder", type=Path, metavar="DIR", help="a results folder")
    report.set_defaults(command=_report)

    tune = commands.add_parser("tune", help="search the launch rows of this machine's GPU")
    tune.add_argument("--suite", default="gpu-quick", help="whose workloads are timed (gpu-quick)")
    tune.add_argument("--ops", nargs="+", default=OPS, metavar="OP", help=", ".join(OPS))
    tune.add_argument(
        "--workload", nargs="+", metavar="NAME", help="some of them, as the tables call them"
    )
    tune.add_argument("--time-limit", type=float, default=540, metavar="SECONDS", help="(540)")
    tune.add_argument("--out", type=Path, metavar="DIR", help=f"folder of tune.jsonl ({OUT}/tune)")
    tune.set_defaults(command=_tune)

    check = commands.add_parser("gpu-check", help="kernel self-check, GPU tests, quick benchmark")
    check.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where all of it goes"
    )
    check.add_argument(
        "--tune", action="store_true", help="search launch rows in the time that is left"
    )
    check.set_defaults(command=_gpu_check)
    return parser


def _run(options: argparse.Namespace) -> int:
    import torch

    name = options.suite or ("gpu-quick" if torch.cuda.is_available() else "cpu-quick")
    suite = find_suite(name, options.ops)
    if suite.device == "cuda":
        _need_gpu(f"suite {name!r}")

    from rich.console import Console

    from . import records
    from .peers import CONTENDERS
    from .report import write_report
    from .runner import run_suite
    from .screen import show

    folder = options.out or OUT / name
    console = Console()

    def emit(rows: list[records.Row]) -> None:
        records.append(folder, rows)
        show(rows, console)

    device = _device(suite.device)
    right = run_suite(name, suite, device, CONTENDERS, emit=emit, say=console.print)
    write_report(folder)
    console.print(f"results in {folder}")
    return 0 if right else 1


def _report(options: argparse.Namespace) -> int:
    from .report import write_report

    write_report(options.folder)
    return 0


def _tune(options: argparse.Namespace) -> int:
    workloads = find_suite(options.suite, options.ops).workloads
    if SUITES[options.suite].device != "cuda":
        raise ValueError(f"suite must be one for GPUs to tune, got {options.suite!r}")
    names = tuple(str(workload) for workload in workloads)
    for name in options.workload or ():
        check_name("workload", name, names)
    if not options.time_limit > 0:
        raise ValueError(f"time-limit must be positive, got {options.time_limit:g}")
    _need_gpu("tune")

    import torch
    from rich.console import Console
    from seqlib_kernels._core.launch import device_arch

    from . import environment
    from .screen import show_search
    from .tune import gpu_trials, tune
    from .tune_groups import find_groups

    console = Console()
    cuda = torch.device("cuda")
    chosen = [w for w in workloads if str(w) in (options.workload or names)]
    commit, dirty = environment.commit()
    about = {"commit": commit, "dirty": dirty, **_device("cuda").facts(), **environment.versions()}
    right = tune(
        find_groups(chosen, device_arch(cuda), cuda),
        options.out or OUT / "tune",
        make=gpu_trials,
        time_limit_s=options.time_limit,
        helpers=max(1, min(8, (os.cpu_count() or 1) // 2)),
        about=about,
        say=lambda text: console.print(text, markup=False, highlight=False),
        show=lambda search: show_search(search, console),
    )
    return 0 if right else 1


def _gpu_check(options: argparse.Namespace) -> int:
    from .gpu_check import gpu_check, parts

    _need_gpu("gpu-check")
    todo = parts(options.out.resolve(), tune=options.tune)
    return gpu_check(options.out, _device("cuda").facts(), todo)


def _need_gpu(what: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError(f"{what} needs a GPU; PyTorch {torch.__version__} finds none here")


def _device(kind: str) -> Device:
    if kind == "cpu":
        from .cpu import Cpu

        return Cpu()
    from .gpu import Gpu

    return Gpu()
