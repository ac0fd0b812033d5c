# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that carries its code separates where seqlib is not installed."""

import subprocess
import sys

import torch

from seqlib.models import MossFormer2Config, MossFormer2ForSpeechSeparation
from seqlib.models.export import save_pretrained_with_code

LOAD = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("seqlib", "seqlib_kernels"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import torch
from transformers import AutoModel

folder = sys.argv[1]
network = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    sources = network(torch.load(folder + "/mixture.pt")).sources
torch.save(sources, folder + "/sources.pt")
"""


def test_a_checkpoint_with_code_needs_no_seqlib(tmp_path, monkeypatch):
    network = MossFormer2ForSpeechSeparation(MossFormer2Config.from_preset("tiny")).eval()
    save_pretrained_with_code(network, tmp_path / "network")
    mixture = torch.randn(2, 1003)
    torch.save(mixture, tmp_path / "network" / "mixture.pt")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-P", "-c", LOAD, str(tmp_path / "network")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with torch.no_grad():
        wanted = network(mixture).sources
    assert torch.equal(torch.load(tmp_path / "network" / "sources.pt"), wanted)
