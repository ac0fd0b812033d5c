# SPDX-License-Identifier: Apache-2.0
"""Every module imports, in silence, where none of the packages that are optional is installed."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys

for name in (
    "datasets", "deepspeed", "google.protobuf", "jax", "kernels", "lm_eval", "mambapy",
    "sklearn", "soundfile", "tensorboard", "torchaudio", "torchdata", "torchmetrics", "triton",
    "zstandard",
):
    sys.modules[name] = None

import seqlib, seqlib_kernels

for package in (seqlib, seqlib_kernels):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.rpartition(".")[2].startswith("kernels"):  # these are Triton's
            importlib.import_module(module.name)
assert "seqlib.training.trainer" in sys.modules
"""


def test_every_module_imports_without_optional_packages():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
