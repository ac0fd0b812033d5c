# SPDX-License-Identifier: Apache-2.0
"""The comparison of two ways to a convolution kernel."""

import json

import torch

from bench.kernel_generation import FILE, main


def test_both_forms_are_measured(tmp_path, capsys):
    threads = torch.get_num_threads()
    small = ["--lengths", "300", "--channels", "3", "--states", "8", "--seconds", "0.01"]
    try:
        main(["--out", str(tmp_path), *small])
    finally:
        torch.set_num_threads(threads)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [row["form"] for row in rows] == ["ssm_kernel", "naive"]
    assert all(row["seconds"] > 0 and row["samples"] >= 3 for row in rows)
    assert rows[0]["error"] < 1e-6 < rows[1]["error"] < 1e-3
    assert "times closer" in capsys.readouterr().out
