# SPDX-License-Identifier: Apache-2.0
"""The comparison of MossFormer2 with the same network written the public way."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.peers.mossformer2_public import PublicMossFormer2
from bench.separation import FILE, main

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "mossformer2"


@pytest.mark.parametrize(
    ("name", "group_size"), [("net_2spk", 32), ("net_3spk_batch", 24), ("net_default_hparams", 256)]
)
def test_the_public_form_is_the_published_network(name, group_size):
    arrays = load_file(GOLDEN / f"{name}.safetensors")
    weights = {n.removeprefix("w."): x.double() for n, x in arrays.items() if n.startswith("w.")}
    got = PublicMossFormer2(weights, group_size)(arrays["in.x"])
    torch.testing.assert_close(got, arrays["out.y"], rtol=1e-10, atol=1e-14)


@pytest.mark.slow
def test_both_forms_are_measured(tmp_path, capsys):
    main(["--out", str(tmp_path), "--preset", "tiny", "--seconds", "0.5", "--rounds", "1"])
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [(row["task"], row["form"]) for row in rows] == [
        ("forward", "seqlib"),
        ("forward", "public form"),
        ("training step", "seqlib"),
        ("training step", "public form"),
    ]
    assert all(row["seconds"] > 0 and row["bytes"] >= 0 for row in rows)
    assert capsys.readouterr().out.count("times faster") == 2
