# SPDX-License-Identifier: Apache-2.0
"""Two ranks on the CPU, plain and sharded, train to the numbers of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("launched_run.py")
CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "accelerate"
TWO = ("--num_processes", "2", "--mixed_precision", "no")

# Measured, transformers 5.23 and torch 2.13: the largest difference of a loss, and of the norm of a
# saved weight, is 7.2e-7 for two plain ranks and for two sharded ones.
TOLERANCE = 2e-6


def start(*command, **environment):
    return subprocess.run(
        [*map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def launch(config, *words, **environment):
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file")
    return start(*launcher, CONFIGS / config, *words, **environment)


def found(folder, done):
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "losses.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return found(folder, start(sys.executable, SCRIPT, folder, "plain", 4, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind"), [("cpu_two_processes.yaml", "plain"), ("fsdp2.yaml", "fsdp")]
)
def test_two_ranks_equal_one_and_resume_exactly(alone, tmp_path, config, kind):
    words = (*TWO, SCRIPT, tmp_path, kind, 2, 2)
    two = found(tmp_path, launch(config, *words, ACCELERATE_USE_CPU="true"))
    assert two["fsdp"] == (kind == "fsdp")
    assert two["plain"] == pytest.approx(alone["plain"], abs=TOLERANCE)
    assert two["saved"] == pytest.approx(alone["saved"], abs=TOLERANCE)
    assert len(two["plain"]) == 12
    assert two["groups"] == alone["groups"]  # shards are new parameters, with the same rates
    assert [lr for lr, *_ in two["groups"]] == [3e-2, 3e-2, 1e-3]
    assert two["resumed"] == two["whole"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--cpu"], {"ACCELERATE_USE_CPU": "true"}),  # one process, without an error
        ([], {}),  # two processes that know nothing of each other
    ],
)
def test_a_launch_that_starts_single_processes_is_noticed(words, environment):
    recipe = CONFIGS.parent / "language_pretraining" / "train.py"
    no_gpu = {"CUDA_VISIBLE_DEVICES": "", **environment}
    words = (*TWO, *words, recipe, "--expect_processes=2")
    done = launch("cpu_two_processes.yaml", *words, **no_gpu)
    assert done.returncode != 0
    assert "expect_processes is 2, but 1 started" in done.stderr
