# SPDX-License-Identifier: Apache-2.0
"""Script for accelerate launch: tiny runs on several ranks; rank 0 writes losses.json into OUT."""

import gc
import importlib.util
import json
import sys
from pathlib import Path

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import TrainerCallback

from seqlib.models import SeqLMForCausalLM
from seqlib.training import trainer as trainer_module

spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
tiny_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny_run)


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


class ShardsOnCpu(trainer_module.SeqTrainer):
    """accelerate shards models on GPU-like process groups only: call this one such."""

    def create_accelerator_and_postprocess(self):
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()


def main():
    out, kind, batch = (
        Path(sys.argv[1]),
        sys.argv[2],
        f"--per_device_train_batch_size={sys.argv[3]}",
    )
    words = (batch, f"--expect_processes={sys.argv[4]}")
    if kind == "fsdp":
        tiny_run.SeqTrainer = ShardsOnCpu
    plain = tiny_run.train(out / "plain", *words, network=tiny_run.recurrent_model())

    def dropping() -> SeqLMForCausalLM:
        return tiny_run.recurrent_model(dropout=0.2)

    whole = tiny_run.train(out / "whole", *words, network=dropping())
    tiny_run.train(out / "cut", *words, network=dropping(), callbacks=[StopAfter(7)])
    resumed = tiny_run.train(out / "cut", *words, network=dropping())
    plain.save_model(str(out / "saved"))
    if plain.is_world_process_zero():
        found = {
            "fsdp": plain.is_fsdp_enabled,
            "groups": [
                [group["initial_lr"], group["weight_decay"], len(group["params"])]
                for group in plain.optimizer.param_groups
            ],
            "plain": list(tiny_run.losses(plain).values()),
            "whole": list(tiny_run.losses(whole).values()),
            "resumed": list(tiny_run.losses(resumed).values()),
            "saved": {
                name: weight.norm().item()
                for name, weight in load_file(out / "saved" / "model.safetensors").items()
            },
        }
        (out / "losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    # Threads of a process group that outlive the interpreter abort it, at times; models that are
    # still in memory hold the group.
    gc.collect()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
