# SPDX-License-Identifier: Apache-2.0
"""The record of a run: complete, plain YAML, there before the first step."""

import yaml
from transformers import TrainerCallback

from seqlib.training.record import RECORD_FILE, describe


def test_the_record_is_written_before_the_first_step(tiny, tmp_path):
    found = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            found.append(yaml.safe_load((tmp_path / RECORD_FILE).read_text()))

    tiny.train(tmp_path, "--max_steps=1", callbacks=[Look()])
    (record,) = found
    assert record["settings"]["learning_rate"] == 0.03
    assert record["settings"]["max_steps"] == 1
    assert record["data"] == {"sha256": "tiny"}
    assert record["processes"] == 1
    assert {"python", "torch", "transformers", "accelerate", "seqlib"} <= set(record["versions"])


def test_the_commit_is_that_of_the_checkout(tiny, tmp_path):
    commit = describe([tiny.settings(tmp_path)], {})["commit"]
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
