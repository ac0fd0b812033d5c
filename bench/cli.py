# SPDX-License-Identifier: Apache-2.0
"""The commands: run, report, gpu-check."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .device import Device
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

    check = commands.add_parser("gpu-check", help="GPU tests, kernel self-check, quick benchmark")
    check.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where all of it goes"
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


def _gpu_check(options: argparse.Namespace) -> int:
    from .gpu_check import gpu_check

    _need_gpu("gpu-check")
    return gpu_check(options.out, _device("cuda").facts())


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
