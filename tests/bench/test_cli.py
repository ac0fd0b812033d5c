# SPDX-License-Identifier: Apache-2.0
"""The commands: a small run end to end, and what a mistake is answered with."""

import dataclasses

import pytest
import torch
from seqlib_kernels._core import launch

from bench import cli, cpu, peers, records, suites, tune, tune_groups
from bench.cli import main
from bench.contender import ours
from bench.workloads import Workload

SMALL = (
    Workload(op="linear_scan", case="real", B=1, T=6, dims={"D": 4}),
    Workload(op="delta_rule", case="plain", B=1, T=6, dims={"H": 1, "HV": 1, "K": 4, "V": 4}),
    Workload(op="selective_scan", case="plain", B=1, T=6, dims={"D": 4, "N": 2}),
    Workload(op="ssd", case="positive", B=1, T=6, dims={"H": 1, "G": 1, "P": 4, "N": 4}),
    Workload(op="diagonal_ssm", case="zoh", B=1, T=6, dims={"H": 2, "M": 2}),
    Workload(op="mimo_ssm", case="zoh", B=1, T=6, dims={"H": 2, "P": 2}),
    Workload(op="fsmn_memory", case="projection", B=1, T=6, dims={"C": 2, "J": 1, "W": 3}),
    Workload(op="dense_fsmn_memory", case="released", B=1, T=6, dims={"C": 2, "W": 3, "depth": 2}),
    Workload(op="sequence_norm", case="sequence", B=1, T=6, dims={"C": 2}),
    Workload(op="joint_attention", case="released", B=1, T=6, dims={"E": 2, "S": 32}),
)


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.fixture
def small(monkeypatch):
    """The quick suite with tiny shapes and without peers, in a process left as it is."""
    monkeypatch.setenv("SEQLIB_NO_CPU_TUNING", "1")
    monkeypatch.setattr(cpu, "COPY_BYTES", 4096)
    monkeypatch.setattr(cpu, "MATRIX", 8)
    tiny = dataclasses.replace(suites.SUITES["cpu-quick"], workloads=SMALL, seconds=0.0)
    monkeypatch.setitem(suites.SUITES, "cpu-quick", tiny)
    alone = {op: (ours("cpu", "cpu"),) for op in suites.OPS}
    monkeypatch.setattr(peers, "CONTENDERS", alone)


def test_a_run_leaves_rows_report_and_picture(small, tmp_path, capsys):
    assert main(["run", "--suite", "cpu-quick", "--out", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chart.png", "report.md", "results.jsonl"]
    rows = records.read(tmp_path)
    assert {(r.op, r.mode) for r in rows} == {(op, m) for op in suites.OPS for m in records.MODES}
    assert all(r.clock == "process CPU time" and r.samples >= 3 for r in rows)
    assert all(r.torch == torch.__version__ for r in rows)
    out = capsys.readouterr().out
    assert "seqlib cpu" in out
    assert f"results in {tmp_path}" in out.replace("\n", "")


def test_ops_choose_the_workloads(small, tmp_path):
    arguments = ["run", "--suite", "cpu-quick", "--ops", "delta_rule", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert {row.op for row in records.read(tmp_path)} == {"delta_rule"}


def test_report_writes_anew(tmp_path, rows):
    records.append(tmp_path, rows)
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.md").is_file()


def test_an_unknown_op_gets_a_hint(capsys):
    text = refused(capsys, "run", "--ops", "linear_scna")
    assert text.startswith("bench: error: no op 'linear_scna'; did you mean 'linear_scan'?")
    assert text.count("\n") == 1


def test_an_unknown_suite_gets_a_hint(capsys):
    assert "no suite 'cpu-quik'; did you mean 'cpu-quick'?" in refused(
        capsys, "run", "--suite", "cpu-quik"
    )


def test_nothing_near_gets_the_known_names(capsys):
    text = refused(capsys, "run", "--suite", "zzz")
    assert "did you mean" not in text
    assert "Known: cpu-quick, cpu, gpu-quick, gpu" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--op", "delta_rul"), "no op 'delta_rul'; did you mean 'delta_rule'?"),
        (("--suite", "gpu-quik"), "no suite 'gpu-quik'; did you mean 'gpu-quick'?"),
        (("--suite", "cpu"), "suite must be one for GPUs to tune, got 'cpu'"),
        (
            ("--op", "ssd", "--workload", "ssd positive B=2 T=4096 H=32 G=1 P=64 N=128 bfloat32"),
            "did you mean 'ssd positive B=2 T=4096 H=32 G=1 P=64 N=128 bfloat16'?",
        ),
        (("--time-limit", "0"), "time-limit must be positive, got 0"),
        (("--time-limit", "nan"), "time-limit must be positive, got nan"),
    ],
)
def test_what_tune_refuses(capsys, argv, message):
    assert message in refused(capsys, "tune", *argv)


def test_tune_searches_the_workloads_that_are_named(gpu, monkeypatch, tmp_path):
    """All but the GPU: what reaches the search."""
    name = "ssd positive B=2 T=4096 H=32 G=1 P=64 N=128 bfloat16"
    seen = {}

    def find_groups(workloads, arch, device):
        seen.update(workloads=workloads, arch=arch, device=device)
        return ["a group"]

    def search(groups, folder, **options):
        seen.update(groups=groups, folder=folder, **options)
        return not options["about"]["device"].startswith("another")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cli, "_device", lambda kind: gpu)
    monkeypatch.setattr(launch, "device_arch", lambda device: "sm_90")
    monkeypatch.setattr(tune_groups, "find_groups", find_groups)
    monkeypatch.setattr(tune, "tune", search)
    arguments = ["tune", "--workload", name, "--time-limit", "30", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert [str(workload) for workload in seen["workloads"]] == [name]
    assert (seen["arch"], seen["device"].type) == ("sm_90", "cuda")
    assert (seen["groups"], seen["folder"]) == (["a group"], tmp_path)
    assert seen["time_limit_s"] == 30
    assert seen["make"] is tune.gpu_trials
    assert 1 <= seen["helpers"] <= 8
    assert {"commit", "dirty", "torch", "triton", "driver"} <= set(seen["about"])
    assert main(["tune", "--op", "delta_rule"]) == 0
    assert {workload.op for workload in seen["workloads"]} == {"delta_rule"}
    assert seen["folder"] == cli.OUT / "tune"
    monkeypatch.setattr(gpu, "facts", lambda: {"device": "another"})
    assert main(arguments) == 1, "a search that was not well is no success"


def test_an_unknown_command_is_refused(capsys):
    assert "gpu-check" in refused(capsys, "rnu")


@pytest.mark.parametrize(
    "argv", [("run", "--suite", "gpu"), ("gpu-check", "--out", "unused"), ("tune",)]
)
def test_without_a_gpu_there_is_one_clear_line(argv, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    text = refused(capsys, *argv)
    assert text.startswith("bench: error: ")
    assert "needs a GPU" in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_report_without_results_is_one_line(tmp_path, capsys):
    text = refused(capsys, "report", str(tmp_path))
    assert "no results" in text
    assert text.count("\n") == 1
