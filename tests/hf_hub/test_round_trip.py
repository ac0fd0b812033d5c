# SPDX-License-Identifier: Apache-2.0
"""To the Hub and back, over a server on this machine."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from seqlib_kernels import use_backend

from hf_hub import publish
from seqlib.models import SeqLMForCausalLM

HERE = Path(__file__).parent
STRANGER = HERE.parent / "models" / "without_seqlib.py"


def local_hub():
    spec = importlib.util.spec_from_file_location("local_hub", HERE / "local_hub.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.running()


@pytest.mark.slow
def test_a_pushed_model_loads_by_name_where_the_project_is_missing(trained, tmp_path, monkeypatch):
    with local_hub() as hub:
        here = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_local",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in here.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        folder = tmp_path / "repository"
        publish.main([str(trained), str(folder), "--push", "me/model"])
        assert set(hub.models["me/model"]) == {path.name for path in folder.iterdir()}
        assert hub.models["me/model"]["README.md"] == (folder / "README.md").read_bytes()

        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-P", str(STRANGER), "me/model", str(tmp_path)],
            cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, (done.stderr, hub.unknown)
    found = json.loads(done.stdout)
    assert found["saved differs by"] == 0
    ids = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]])  # "abcabcab"
    with torch.no_grad(), use_backend("reference"):
        want = SeqLMForCausalLM.from_pretrained(trained)(ids).logits
    assert (torch.load(tmp_path / "logits.pt") - want).abs().max() < 1e-6  # measured 0
