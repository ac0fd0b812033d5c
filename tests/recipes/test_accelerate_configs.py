# SPDX-License-Identifier: Apache-2.0
"""accelerate's own launcher understands every launch file, as what its name says."""

from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "accelerate"

WANTED = {
    "single_cpu": {"num_processes": 1, "mixed_precision": "no", "use_cpu": True},
    "single_gpu": {"num_processes": 1, "mixed_precision": "bf16", "multi_gpu": False},
    "multi_gpu": {"num_processes": 8, "mixed_precision": "bf16", "multi_gpu": True},
    "fsdp2": {
        "num_processes": 8,
        "use_fsdp": True,
        "fsdp_version": "2",
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    },
    "zero2": {"num_processes": 8, "use_deepspeed": True, "zero_stage": 2},
    "cpu_two_processes": {"num_processes": 2, "mixed_precision": "no", "multi_gpu": True},
}


def test_every_file_is_expected():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_the_launcher_parses_it(name):
    words = ["--config_file", str(FOLDER / f"{name}.yaml"), "train.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    found = {key: getattr(args, key) for key in WANTED[name]}
    assert {k: str(v) for k, v in found.items()} == {k: str(v) for k, v in WANTED[name].items()}
